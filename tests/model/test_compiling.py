"""What compiles a network: the same answers in every mode, answers that last, and mistakes in one sentence."""

import pytest
import torch

from dit.model import check_compile
from dit.model.compiling import GRAPHS, MODES
from tests.model.test_dit import awake, batch, tiny


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("fast", None), r"compile must be null or one of .*inductor.*, got 'fast'"),
        (("inductor", "quick"), rf"compile_mode must be null or one of {', '.join(MODES)}, got 'quick'"),
        ((None, GRAPHS), "compile_mode=reduce-overhead needs compile=inductor, got compile=null"),
        (("aot_eager", GRAPHS), "compile_mode=reduce-overhead needs compile=inductor, got compile=aot_eager"),
    ],
)
def test_mistakes(given, said):
    with pytest.raises(ValueError, match=said):
        check_compile(*given)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, *MODES])
def test_every_mode_answers_and_learns_as_the_plain_network(mode):
    inputs = batch()
    plain, compiled = awake(tiny()).eval(), awake(tiny()).eval()
    compiled.compile_in_place("inductor", mode)
    found = []
    for network in (plain, compiled):
        out = network(*inputs)
        out.square().mean().backward()
        found.append([out.detach(), *(p.grad for p in network.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.gpu
def test_answers_of_cuda_graphs_last():
    """The second call must not overwrite what the first returned; both are those of the plain network."""
    inputs = [t.cuda() for t in batch()]
    other = [inputs[0] + 1, *inputs[1:]]
    network = awake(tiny()).eval().cuda()
    with torch.no_grad():
        wanted = [network(*inputs), network(*other)]
        network.compile_in_place("inductor", GRAPHS)
        for _ in range(3):  # warm-up, recording, replay
            found = [network(*inputs), network(*other)]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
