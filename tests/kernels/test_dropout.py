"""The mask of dropout: its rate, its bits, and that a step on the device gives another one."""

from __future__ import annotations

import math

import pytest
import torch

from galaxysd import seeds
from galaxysd.kernels import group_norm_silu
from galaxysd.kernels.cases import CASES, Shape
from galaxysd.kernels.dropout import kept
from tests.kernels.checks import DEVICE, normal

SIZE = (3, 8, 16, 17)


@pytest.mark.parametrize("key", [(0, 0), (5, 1), (-(2**40) + 3, 2**33 + 9)])
def test_bits_are_philox_of_index_and_step(key):
    """The generator of `seeds`, whose published vectors its own tests hold."""
    index = torch.arange(math.prod(SIZE))
    words = [index & 0xFFFFFFFF, index >> 32, *(torch.full_like(index, (key[1] >> s) & 0xFFFFFFFF) for s in (0, 32))]
    bits = seeds.philox(torch.stack(words, -1), (key[0] & 0xFFFFFFFF, (key[0] >> 32) & 0xFFFFFFFF))[..., 0]
    batch, channels, height, width = SIZE
    wanted = (bits >= round(0.3 * 2**32)).view(batch, height, width, channels).permute(0, 3, 1, 2)
    assert torch.equal(kept(torch.tensor(key), SIZE, 0.3), wanted)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_the_rate_is_kept(rate):
    share = 1 - kept(torch.tensor([1, 2]), SIZE, rate).double().mean().item()
    assert abs(share - rate) < 4 * math.sqrt(rate * (1 - rate) / math.prod(SIZE))


def test_launchers_and_definition_drop_the_same():
    case, shape = CASES["norm-dropout"], Shape(2, 5, 7, 24, 3)
    given = case.inputs(shape, torch.float32, DEVICE, normal(0))
    dropped = case.launched(given, shape, None)[0][0] == 0
    assert torch.equal(dropped.cpu(), ~kept(given["key"].cpu(), (2, 24, 5, 7), 0.1))


def test_a_step_on_the_device_gives_another_mask_to_one_compiled_function():
    key = torch.tensor([3, 0])
    x, w = torch.ones(1, 8, 4, 4), torch.ones(8)
    x[:, ::2] = 2
    compiled = torch.compile(lambda: group_norm_silu(x, w, w, 2, dropout=0.5, key=key), fullgraph=True, backend="aot_eager")
    first, again = compiled(), compiled()
    key[1] += 1
    other = compiled()
    assert torch.equal(first, again)
    assert not torch.equal(first == 0, other == 0)
