"""Files are written whole or not at all, through no link, and are found out where they are not what was written."""

import os
import stat
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from dit.checks import built, check_arguments, check_number, check_whole, fits, printable, shown
from dit.files import read_json, replaced, write_json, write_text
from dit.tensors import open_tensors, save_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7, dtype=torch.int64), "c": torch.ones(3).bfloat16()}


def words(tensors):
    return {name: (t.dtype, t.shape, t.reshape(-1).view(torch.uint8).tolist()) for name, t in tensors.items()}


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out").symlink_to(tmp_path / "mine")
    write_text(tmp_path / "out", "new")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_text() == "new"


def test_names_to_write_to_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(8):
        with replaced(tmp_path / "out") as unfinished:
            unfinished.write_text("x")
            names.add(unfinished.name)
    assert len(names) == 8
    with replaced(tmp_path / ("n" * 250)) as unfinished:  # a name as long as a file system takes
        unfinished.write_text("x")


def test_what_is_not_finished_leaves_nothing(tmp_path):
    (tmp_path / "out").write_text("old")

    def half_a_file():
        with replaced(tmp_path / "out") as unfinished:
            unfinished.write_text("half")
            raise KeyError

    def half_a_folder():
        with replaced(tmp_path / "out") as unfinished:
            unfinished.mkdir()
            (unfinished / "part").write_text("half")
            raise KeyError

    for half in (half_a_file, half_a_folder):
        with pytest.raises(KeyError):
            half()
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"out": "old"}


@pytest.mark.parametrize(
    "write", [lambda file: write_json(file, {"a": 1}), lambda file: save_tensors(file, TENSORS, {})]
)
def test_a_refusal_of_the_system_is_one_sentence(write, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "none" / "out", tmp_path / "file" / "out"):
        with pytest.raises(ValueError, match=r"out cannot be written: .*(No such file or directory|Not a directory)"):
            write(out)
    if os.getuid():  # root may write anywhere
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        with pytest.raises(ValueError, match=r"out cannot be written: Permission denied"):
            write(tmp_path / "out")
        tmp_path.chmod(stat.S_IRWXU)


def test_every_changed_byte_of_tensors_is_found(tmp_path):
    """Of all bits of a file, header and metadata included, none may change what is read."""
    save_tensors(tmp_path / "x", TENSORS, {"says": "something", "more": "[1, 2]"})
    raw, good = (tmp_path / "x").read_bytes(), words(TENSORS)
    with open_tensors(tmp_path / "x") as opened:
        assert words(opened.tensors()) == good
        assert opened.metadata == {"says": "something", "more": "[1, 2]"}
        assert opened.checked
    assert words(load_file(tmp_path / "x")) == good  # as others read it
    refused = 0
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << at % 8
        (tmp_path / "y").write_bytes(changed)
        try:
            with open_tensors(tmp_path / "y", "key") as opened:
                assert words(opened.tensors()) == good
                assert {"says": "something", "more": "[1, 2]"}.items() <= opened.metadata.items()
        except ValueError as error:
            refused += str(error).startswith(f"key={tmp_path}/y ")
    assert refused >= len(raw) - 8  # a changed name of a digest leaves a file without one, and all else as it was


def test_every_changed_byte_of_sealed_json_is_found(tmp_path):
    content = {"a": [1, 2.5, None], "b": {"c": "text"}}
    write_json(tmp_path / "x", content, sealed=True)
    raw = (tmp_path / "x").read_bytes()
    assert read_json(tmp_path / "x") == content
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << at % 8
        (tmp_path / "y").write_bytes(changed)
        try:
            assert content.items() <= read_json(tmp_path / "y").items()
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path}/y is damaged or not JSON: ")  # noqa: PT017


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "null", "[1]", '{"a": 1', "\xff"])
def test_what_is_no_json_object_is_one_sentence(text, tmp_path):
    (tmp_path / "x").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"^.*/x is damaged or not JSON: [^\n]*$"):
        read_json(tmp_path / "x")


def test_nothing_that_a_terminal_obeys_is_printable():
    for text in (
        "\x1b]0;owned\x07",
        "\x9b31m",
        "a\nb",
        "a\rb",
        "\u202egnp.exe",
        "\u2066",
        "\u2028",
        os.fsdecode(b"caf\xe9"),
    ):
        assert printable(text).isprintable()
        printable(text).encode("utf-8")
    for text in ("café", "日本語", "👨\u200d👩", "a\u200cb", "a b", "[red]"):
        assert printable(text) == text
    assert shown("x" * 500) == f"'{'x' * 119}..."
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "a list nested too deeply"


class Base:
    def __init__(self, size: int, title: str = "a"): ...


class Leaf(Base):
    def __init__(self, root: str, rate: float | None = None, kind: Literal["x", "y"] = "x", **base): ...


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"root": "r", "size": 1}, None),
        ({"root": "r", "size": 1, "rate": 2, "title": "b", "kind": "y"}, None),
        ({"root": "r"}, "thing Leaf lacks size"),
        ({"root": "r", "size": True}, "size of thing Leaf must be a whole number, got True"),
        ({"root": "r", "size": 1 << 70}, "size of thing Leaf must be a whole number, got 1180591620717411303424"),
        ({"root": ["r"], "size": 1}, r"root of thing Leaf must be a string, got \['r'\]"),
        ({"root": "r", "size": 1, "rate": float("nan")}, "rate of thing Leaf must be a finite number or null, got nan"),
        ({"root": "r", "size": 1, "kind": "z"}, "kind of thing Leaf must be x or y, got 'z'"),
        ({"root": "r", "size": 1, "_target_": "os.system"}, "thing Leaf does not take '_target_'; it takes"),
        ({"root": "r", "size": 1, "base": {}}, "thing Leaf does not take 'base'; it takes"),
        ({"root": "r", "size": 1, "self": {}}, "thing Leaf does not take 'self'; it takes"),
    ],
)
def test_arguments_are_checked_against_the_signature(arguments, sentence):
    if sentence is None:
        check_arguments("thing Leaf", Leaf, arguments)
        assert isinstance(built("thing", {"name": "Leaf", **arguments}, {"Leaf": Leaf}), Leaf)
        return
    with pytest.raises(ValueError, match=sentence):
        check_arguments("thing Leaf", Leaf, arguments)


@pytest.mark.parametrize(
    "spec", [None, [], "Leaf", {"name": ["Leaf"]}, {"name": "os.system"}, {}, {1: 2}, {"name": None}]
)
def test_specs_name_entries_of_the_registry(spec):
    with pytest.raises(ValueError, match=r"^thing .*(must be a mapping|is unknown; known are Leaf)"):
        built("thing", spec, {"Leaf": Leaf})


def test_types_and_bounds():
    assert fits([1, 2.5], list[float])
    assert not fits([1, "2"], list[float])
    assert fits({"a": 1}, dict[str, object])
    assert not fits({1: 1}, dict[str, object])
    assert not fits(1, torch.Tensor)
    for value in (0, 11, 1.0, True, "1", None):
        with pytest.raises(ValueError, match=r"key must be a whole number from 1 to 10, got"):
            check_whole("key", value, 1, 10)
    for value in (-0.1, 1.1, float("nan"), float("inf"), True, "1", None):
        with pytest.raises(ValueError, match=r"key must be a finite number from 0 to 1, got"):
            check_number("key", value, 0, 1)
