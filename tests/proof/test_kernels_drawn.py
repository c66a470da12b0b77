"""The launchers over many drawn shapes, and the network compiled by Inductor: what takes longer than a suite should."""

from __future__ import annotations

import pytest
import torch

from galaxysd.kernels.cases import CASES
from tests.kernels.bf16_dot import bf16_dot
from tests.kernels.test_cases import judge_drawn
from tests.model.test_unet import relative, smallest

__all__ = ["bf16_dot", "smallest"]  # fixtures
pytestmark = pytest.mark.proof_kernels


@pytest.mark.usefixtures("bf16_dot")
@pytest.mark.parametrize("name", CASES)
def test_launchers_over_drawn_shapes(name, tier, report):
    n = tier("kernel-shapes")
    judge_drawn(name, n)
    report(f"{name}: drawn shapes whose values and gradients equal the float64 definition's", f"{n} of {n}", n=n)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # torch's own, while it compiles
def test_two_compiled_train_steps_are_two_eager_ones(smallest, report):
    """Inductor, fullgraph, forward and backward, with a change of the weights between."""
    net, given = smallest
    start = {name: t.clone() for name, t in net.state_dict().items()}
    ends = []
    for each in (net, torch.compile(net, fullgraph=True)):
        net.load_state_dict(start)
        for _ in range(2):
            net.zero_grad()
            each(*given).square().mean().backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.1 * parameter.grad
        ends.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
    error = relative(ends[1], ends[0])
    report("weights after two compiled train steps, relative to two eager ones", error, n=2)
    assert error < 1e-5
