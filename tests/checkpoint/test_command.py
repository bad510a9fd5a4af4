"""python -m dit.checkpoint: the same by hand, mistakes in a sentence."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dit.checkpoint import import_loaded, load
from dit.checkpoint.__main__ import main
from tests.checkpoint.foreign import JIT, weights
from tests.checkpoint.ours import checkpoint


def printed(capsys):
    """The table as a dict."""
    lines = capsys.readouterr().out.splitlines()
    assert len({line.index(line.split(maxsplit=1)[1], len(line.split()[0])) for line in lines}) == 1  # one column
    return dict(line.split(maxsplit=1) for line in lines)


def test_inspecting_our_own(tmp_path, capsys):
    file = checkpoint(tmp_path / "last.ckpt")
    assert main(["inspect", str(file), "--weights", "0.9"]) == 0
    table = printed(capsys)
    assert table["weights"] == "ema 0.9"
    assert table["step"] == "1,234"
    assert table["parameters"] == f"{sum(p.numel() for p in load(file).network.parameters()):,}"
    assert table["network.hidden_size"] == "24"
    assert table["path.name"] == "DiscreteVP.linear"
    assert table["kind"] == "eps"
    assert table["class_names"] == "hen, newt, toad, frog"
    assert table["codec.std"] == "0.5"
    assert table["config.nested.list"] == "1, 2.5, None"


def test_in_and_out_and_inspected_again(tmp_path, capsys):
    torch.save(weights(doubled=True, classes=200), tmp_path / "foreign.pt")
    (tmp_path / "names.txt").write_text("\n".join(f"name {n}" for n in range(200)))
    foreign, ours, folder = (str(tmp_path / name) for name in ("foreign.pt", "ours.safetensors", "folder"))
    names = ["--class-names", str(tmp_path / "names.txt")]
    assert main(["import", "dit", foreign, ours, "--num-heads", "2", *names]) == 0
    assert main(["export", ours, folder, "--to", "diffusers"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [ours, folder]
    assert [line.partition(":")[0] for line in said.err.splitlines()] == ["warning", "warning"]
    assert main(["export", ours, str(tmp_path / "copy.safetensors")]) == 0
    capsys.readouterr()
    tables = []
    for arguments in ([folder], [ours], [str(tmp_path / "copy.safetensors")]):
        assert main(["inspect", *arguments]) == 0
        tables.append(printed(capsys))
    assert tables[0] == tables[1] == tables[2]
    assert tables[0]["class_names"].startswith("name 0, name 1, ")
    assert tables[0]["class_names"].endswith("... (200 in all)")
    assert main(["inspect", foreign, "--source", "dit", "--num-heads", "2"]) == 0
    assert printed(capsys)["config.imported_from"] == "dit"
    assert import_loaded(folder, "diffusers").class_names == load(ours).class_names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nothing.ckpt"], "checkpoint=nothing.ckpt does not exist; "),
        (["inspect", "{foreign}"], "is of another kind: it has no state_dict, ema, metadata"),
        (["inspect", "{foreign}", "--source", "sit"], "has width 24, of which no number of heads was published"),
        (["inspect", "{ours}", "--setting", "path_type=VP"], "--setting=path_type=VP needs --source; ours say it"),
        (["import", "sit", "{foreign}", "x.safetensors", "--setting", "VP"], "--setting=VP must be KEY=VALUE"),
        (["import", "sit", "{foreign}", "x.safetensors", "--setting", "path_type=2"], "path_type=2, which cannot be"),
        (["inspect", "{ours}", "--num-heads", "2"], "--num-heads=2 needs --source; ours say it"),
        (["import", "dit", "{foreign}", "x.safetensors", "--class-names", "nothing.txt"], "nothing.txt"),
        (["import", "dit", "{foreign}", "{ours}"], "is there already; give another name"),
        (["import", "dit", "{foreign}", "weights.pt"], "out=weights.pt must end in .safetensors"),
        (["export", "{ours}", "x.safetensors", "--weights", "0.5"], "weights must be ema, raw or one of 0.999, 0.9"),
        (["export", "{ours}", "x.safetensors", "--vae", "here"], "--vae=here belongs to --to diffusers"),
        (["export", "nothing.ckpt", "x.safetensors"], "file=nothing.ckpt does not exist"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    files = {"foreign": tmp_path / "foreign.pt", "ours": checkpoint(tmp_path / "ours.ckpt")}
    torch.save(weights(), files["foreign"])
    assert main([argument.format(**files) for argument in arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == ["foreign.pt", "ours.ckpt"]


def test_it_is_a_command(tmp_path):
    file = checkpoint(tmp_path / "last.ckpt")
    run = subprocess.run(
        [sys.executable, "-m", "dit.checkpoint", "inspect", str(file), "--weights", "0.1"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert (
        run.stderr
        == "loading PyTorch, a few seconds\nerror: weights must be ema, raw or one of 0.999, 0.9, got '0.1'\n"
    )


def test_options_are_told_by_hand(tmp_path, capsys):
    torch.save(weights(**JIT), tmp_path / "foreign.pt")
    said = ["--setting", "noise_scale=2", "--setting", "label_drop_prob=0.0"]
    assert main(["inspect", str(tmp_path / "foreign.pt"), "--source", "jit", *said]) == 0
    table = printed(capsys)
    assert table["path.noise_scale"] == "2"
    assert table["dropout.class"] == "0.0"
    torch.save(weights(), tmp_path / "foreign.pt")
    said = ["--setting", "path_type=GVP", "--num-heads", "2"]
    assert main(["inspect", str(tmp_path / "foreign.pt"), "--source", "sit", *said]) == 0
    assert printed(capsys)["path.name"] == "Trigonometric"


def test_names_of_classes_as_editors_save_them(tmp_path, capsys):
    torch.save(weights(), tmp_path / "foreign.pt")
    names = tmp_path / "names.txt"

    def command(out):
        files = [str(tmp_path / "foreign.pt"), str(tmp_path / out)]
        return main(["import", "dit", *files, "--num-heads", "2", "--class-names", str(names)])

    for number, content in enumerate((b"\xef\xbb\xbfant\r\nbee\r\ncat\r\ndog\r\neel\r\n", b"ant\nbee\ncat\ndog\neel")):
        names.write_bytes(content)
        assert command(f"{number}.safetensors") == 0
        assert load(tmp_path / f"{number}.safetensors").class_names == ["ant", "bee", "cat", "dog", "eel"]
    capsys.readouterr()
    for content, message in (
        (b"ant\nb\x1b[31mee\ncat\ndog\neel", r"in line 2, got 'b\x1b[31mee'"),
        (b"ant\nbee\ncat\x0bdog\neel", r"in line 3, got 'cat\x0bdog'"),
        ("ant\nbee\u2028x\ncat".encode(), r"in line 2, got 'bee\u2028x'"),
        (b"ant\n\ncat\ndog\neel\n", "in line 2, got ''"),
        ("ant".encode("utf-16"), "is not UTF-8 text; save it as UTF-8"),
    ):
        names.write_bytes(content)
        assert command("x.safetensors") == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: --class-names={names} ")
        assert message in said
        assert said.count("\n") == 1
