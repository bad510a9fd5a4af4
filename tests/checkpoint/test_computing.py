"""A loaded network in bfloat16, and compiled: the same answers to stated tolerances, and the weights say so."""

import pytest
import torch

from dit.checkpoint import load
from tests.checkpoint.ours import checkpoint

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
T, LABELS = torch.tensor([0.25, 1.0]), torch.tensor([0, 2])


def answer(loaded):
    return loaded.denoiser(X, T, LABELS).native


@pytest.mark.parametrize("axes", [{}, {"norm": "rmsnorm", "mlp": "swiglu", "position": "sincos_rope"}], ids=str)
def test_bfloat16_answers_as_float32_does_to_its_digits(tmp_path, axes):
    plain = load(checkpoint(tmp_path / "last.ckpt", **axes))
    cast = load(tmp_path / "last.ckpt").computing("bf16-true")
    assert {p.dtype for p in cast.network.parameters()} == {torch.bfloat16}
    assert (plain.weights, cast.weights) == ("ema 0.999", "ema 0.999 in bfloat16")
    wanted, given = answer(plain), answer(cast)
    assert given.dtype is torch.float32
    assert 0 < float((given - wanted).norm() / wanted.norm()) < 0.02


def test_compiled_blocks_answer_the_same(tmp_path):
    plain = load(checkpoint(tmp_path / "last.ckpt")).computing()
    compiled = load(tmp_path / "last.ckpt").computing(compile="aot_eager")
    assert compiled.weights == "ema 0.999"
    torch.testing.assert_close(answer(compiled), answer(plain), rtol=1e-5, atol=1e-5)


def test_other_ways_to_compute_are_refused(tmp_path):
    loaded = load(checkpoint(tmp_path / "last.ckpt"))
    with pytest.raises(ValueError, match="precision must be 32-true or bf16-true, got 'fp16'"):
        loaded.computing("fp16")
    with pytest.raises(ValueError, match=r"compile must be null or one of .*inductor.*, got 'fast'"):
        loaded.computing(compile="fast")
