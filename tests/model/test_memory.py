"""Memory of training, counted on shapes: what a real step keeps, and closed forms."""

import pytest

from dit.model.__main__ import main
from dit.model.memory import AVERAGED, _kept, training_memory
from tests.model.test_dit import tiny


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("recompute", [0, 1])
def test_shapes_alone_tell_what_a_real_step_keeps(bf16, recompute):
    network = tiny(activation_checkpointing=recompute)
    told = training_memory(network.spec, bf16, activation_checkpointing=recompute)
    assert told.state == AVERAGED * sum(p.numel() for p in network.parameters())
    assert [told.fixed + count * told.picture for count in (1, 3)] == [_kept(network, count, bf16) for count in (1, 3)]
    assert told.picture > 0


def test_recomputed_blocks_keep_their_input_and_condition_alone():
    spec = tiny(depth=2).spec
    one, two = (training_memory({**spec, "depth": depth}, False, activation_checkpointing=1) for depth in (2, 3))
    tokens = (spec["image_size"] // spec["patch_size"]) ** 2
    assert two.picture - one.picture == 4 * tokens * spec["hidden_size"]  # the next block's input, in float32


def test_the_command_tells_memory_and_hours(capsys, monkeypatch):
    monkeypatch.setattr("dit.model.__main__.presets", lambda: {"dit_s": tiny().arguments})
    main(["--batch", "4", "--rate", "100"])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[-5:] == ["recomputed", "sharded", "by", "8", "h/million"]
    assert line.split()[-1] == "2.8"
    with pytest.raises(SystemExit, match="error: no preset is called dit_q; there are dit_s"):
        main(["dit_q"])
    with pytest.raises(SystemExit, match="--batch must be positive, got 0"):
        main(["--batch", "0"])
    with pytest.raises(SystemExit, match="--rate must be positive, got -1"):
        main(["--rate", "-1"])
