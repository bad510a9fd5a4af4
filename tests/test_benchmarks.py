"""The benchmarks: work that is equal, ratios of rounds, and what is printed. No time is asserted."""

import json

import pytest
import torch

from benchmarks.rounds import speed_up, spread, take_turns
from benchmarks.speed import __main__ as speed
from benchmarks.speed import models, page, sampling, shares
from benchmarks.speed.step import Moments, training_step


def test_a_ratio_is_the_median_over_rounds_though_the_machine_slows_down():
    """Both arms take ten times as long from round to round; b always twice as long as a, but for one outlier."""
    given = {"a": [9.0, 1.0, 10.0, 100.0], "b": [9.0, 2.0, 20.0, 500.0]}
    arms = {name: iter(seconds).__next__ for name, seconds in given.items()}
    turns = take_turns(arms, rounds=3)
    assert turns.first == {"a": 9.0, "b": 9.0}
    assert turns.seconds == {"a": [1.0, 10.0, 100.0], "b": [2.0, 20.0, 500.0]}
    ratio = speed_up(turns.seconds["a"], turns.seconds["b"])
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 3.5)


def test_arms_take_turns_and_every_other_round_runs_backwards():
    order = []
    arms = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    turns = take_turns(arms, rounds=2, warm_up=2)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(seconds) for name, seconds in turns.seconds.items()} == {"a": 2, "b": 2, "c": 2}
    with pytest.raises(ValueError, match="rounds and warm_up must be at least 1, got 0 and 1"):
        take_turns(arms, rounds=0)


def test_quartiles():
    assert spread([3.0]).low == spread([3.0]).high == 3.0
    of_five = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (of_five.low, of_five.median, of_five.high) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("name", ["s2", "digits"])
def test_ours_and_diffusers_do_the_same_work(name):
    """diffusers embeds time and label in every block: at most 2 % more, and nothing else."""
    ours, theirs = models.ours(name).eval(), models.diffusers(name).eval()
    work = [models.forward_flops(network, name) for network in (ours, theirs)]
    size = models.arguments(name)
    embedding = 2 * size["hidden_size"] * (256 + size["hidden_size"])
    # one a block and one more for the final layer, where ours has one; diffusers' patches are a convolution, the same
    assert work[1] - work[0] == size["depth"] * embedding
    assert 1 <= work[1] / work[0] < 1.02


def test_a_twin_shares_the_weights_and_moments_serve_every_arm():
    pair = [models.ours("tiny"), models.diffusers("tiny")]
    twin = models.twin(pair[0])
    assert all(a is b for a, b in zip(pair[0].parameters(), twin.parameters(), strict=True))
    assert all(bool(p.any()) for p in pair[0].parameters() if p.ndim > 1)
    moments, before = Moments(pair), pair[0].final.linear.weight.detach().clone()
    batch = models.random_batch("tiny", 2, "cpu")
    for network in (twin, *pair):
        optimizer = moments.adamw(network, fused=True)
        training_step(network, optimizer, batch, "bf16")()
        state = optimizer.state[next(network.parameters())]
        assert state["exp_avg"].data_ptr() == moments.first.data_ptr()
        assert float(state["step"]) == 1
    assert not torch.equal(before, pair[0].final.linear.weight)
    assert all(bool(p.isfinite().all()) for network in pair for p in network.parameters())


def test_both_samplers_ask_their_network_equally_often():
    labels = torch.tensor([1, 2])
    ours, theirs = models.ours("tiny").eval(), models.diffusers("tiny").eval()
    found = [
        sampling.counted(lambda: sampling.draw(ours, labels, 3, None, False), ours, 2),
        sampling.counted(sampling.pipeline(theirs, labels, 3), theirs, 2),
    ]
    assert found == [{"calls": 3, "rows": 6.0}] * 2
    apart = sampling.counted(lambda: sampling.draw(ours, labels, 3, 2, False), ours, 2)
    assert apart == {"calls": 6, "rows": 6.0}


def test_one_product_for_all_modulations_gives_the_same():
    network = models.ours("tiny").eval().to(torch.bfloat16)
    for block in network.blocks:
        torch.nn.init.normal_(block.modulation.linear.bias)
    with torch.inference_mode():
        arms = shares.of_forward(network, "tiny", 3)
        apart, together = (arms[f"modulations, {how}"]() for how in ("block by block", "one product"))
    apart = torch.cat([vector[:, 0] for block in apart for vector in block], dim=1)
    torch.testing.assert_close(torch.cat(together, dim=1), apart)


def test_the_command_measures_keeps_and_shows(tmp_path, capsys, monkeypatch):
    """End to end: figures are kept, parts are merged, and the page holds the same numbers."""
    out = ["--quick", "--out", str(tmp_path)]
    speed.main([*out, "--parts", "training"])
    speed.main([*out, "--parts", "scaling,shares"])
    shown = capsys.readouterr().out
    kept = json.loads((tmp_path / "cpu.json").read_text())
    assert list(kept["parts"]) == ["training", "shares", "scaling"]
    run = kept["parts"]["training"]["runs"][0]
    arms = ["diffusers, fp32", "ours, fp32", "diffusers, bf16", "ours, bf16", "diffusers, bf16, default AdamW"]
    assert sorted(run["seconds"]) == sorted(run["first"]) == sorted(arms)
    assert {len(seconds) for seconds in run["seconds"].values()} == {2}
    assert all(arm in shown for arm in (*arms, "modulations, one product", "norm of the gradients"))

    run["seconds"] = {arm: [2.0, 2.0] for arm in arms} | {"ours, bf16": [0.5, 0.5]}
    file, where = tmp_path / "cpu.json", tmp_path / "page.md"
    file.write_text(json.dumps(kept))
    text = page.write([file], where).read_text()
    assert "| ours, bf16 | 4.00 | 4.00 | 4.00-4.00 |" in text  # 2 pictures in half a second
    assert "| ours, bf16 | diffusers, bf16 | 4.00 | 4.00-4.00 |" in text
    assert "has never run: no GPU was at hand" in text
    assert "part scaling" in text
    assert "the figures mean nothing" in text

    monkeypatch.setattr(speed.machine, "describe", lambda device: kept["machine"] | {"torch": "9"})
    with pytest.raises(SystemExit, match=f"error: --out {tmp_path} holds figures of torch .*, and this is torch 9"):
        speed.main([*out, "--parts", "scaling"])


@pytest.mark.slow
def test_the_whole_loop_start_up_and_memory_are_measured(tmp_path):
    speed.main(["--quick", "--out", str(tmp_path), "--parts", "loop,startup,memory,ways,sampling"])
    parts = json.loads((tmp_path / "cpu.json").read_text())["parts"]
    run = parts["loop"]["runs"][0]
    assert len(run["seconds"]["train.py"]) == len(run["seconds"]["bare"]) == run["steps"] // 5
    assert 0 < run["waiting"] < run["watched"]
    ends = [seconds[0] for phase, seconds in parts["startup"]["ends"].items() if phase != "imports"]
    assert ends == sorted(ends)
    assert all(gib > 0 for gib in parts["memory"]["gib"].values())


@pytest.mark.slow
@pytest.mark.parametrize("who", ["ours", "diffusers"])
def test_a_compiled_twin_takes_the_same_step(who):
    """Block by block and as a whole: the loss of a compiled network is that of the eager one."""
    network = getattr(models, who)("tiny").eval()
    x, time, labels = models.random_batch("tiny", 2, "cpu")
    with torch.no_grad():
        eager = models.call_of(network)(x, time, labels)
        for whole in (False, True):
            torch.testing.assert_close(
                models.call_of(models.compiled(network, whole))(x, time, labels), eager, atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--models", "s2,q3"], "--models must be digits, or s, b, l or xl with a patch size of 2, 4 or 8, got 'q3'"),
        (["--parts", "training,fast"], "--parts must be some of training,loop,.*, got 'fast'"),
        (["--batch", "0"], "--batch must be a whole number of at least 1, got 0"),
        (["--rounds", "-1"], "--rounds must be a whole number of at least 1, got -1"),
        (["--write-docs", "Makefile"], "--write-docs takes files that benchmarks.speed wrote, got Makefile"),
        (["--quick", "--trace", "trace.json", "--arm", "x"], "--arm must be one of diffusers, fp32; .*, got 'x'"),
    ],
)
def test_mistakes_end_in_one_sentence(given, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: {said}"):
        speed.main(given)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed(tmp_path):
    with pytest.raises(SystemExit, match="--device cuda needs a GPU that PyTorch can use, and there is none"):
        speed.main(["--device", "cuda", "--out", str(tmp_path)])


def test_the_trace_is_written_and_its_largest_operations_are_told(tmp_path, capsys):
    speed.main(["--quick", "--trace", str(tmp_path / "trace.json")])
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert "10 operations that take longest, ours, bf16" in capsys.readouterr().out
