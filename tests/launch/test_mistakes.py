"""What a user can mend is one sentence; a bug of ours keeps its traceback."""

import errno

import pytest
import torch

from dit.launch.task import mistake

TOLD = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB of which 1 GiB is free."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("steps must be\na number"), "steps must be a number"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.ckpt"),
            "No space left on device: a.ckpt cannot be written",
        ),
        (OSError(errno.ENOENT, "No such file", "a"), None),
        (KeyError("x"), None),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
    ],
)
def test_sentences(error, said):
    assert mistake(error) == said


def test_a_batch_that_does_not_fit_says_what_to_lower():
    said = mistake(torch.OutOfMemoryError(TOLD))
    assert said is not None
    assert said.startswith("CUDA out of memory. Tried to allocate 2.00 GiB; a smaller data.batch_size")
    assert "model.activation_checkpointing=1" in said
    assert "\n" not in said
