"""The forward launcher where it is hard: no spread, a mean far from zero, groups wider than a block, slices, every path at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from galaxysd.kernels import norm_tiles
from galaxysd.kernels.cases import CASES, Shape
from galaxysd.kernels.launching import recorded
from galaxysd.kernels.norm_forward import launch_forward
from tests.kernels.checks import DEVICE, TOLERANCE, check, normal, relative

PATHS = {
    "one pass, 8x8": (Shape(2, 8, 8, 64, 4), {"_one_pass"}),
    "one pass, odd": (Shape(1, 15, 17, 40, 5), {"_one_pass"}),
    "one pass, 32x32": (Shape(1, 32, 32, 32, 2), {"_one_pass"}),
    "two passes, large map": (Shape(2, 34, 33, 48, 3), {"_statistics", "_merge", "_apply"}),
    "two passes, partials merged in turns": (Shape(1, 23, 23, 200, 1), {"_statistics", "_merge", "_apply"}),
    "two passes, one group of all": (Shape(1, 8, 8, 200, 1), {"_statistics", "_merge", "_apply"}),
}


def launched(shape: Shape) -> set[str]:
    given = CASES["norm"].inputs(shape, torch.float32, DEVICE, normal(0))
    with recorded(90) as launches:
        CASES["norm"].launched(given, shape, None)
    return {launch.kernel.__name__ for launch in launches}


@pytest.mark.parametrize("path", PATHS)
def test_each_path_is_taken_and_right(path):
    shape, kernels = PATHS[path]
    assert launched(shape) == kernels
    for name in ("norm", "norm-add", "norm-adaptive", "norm-dropout"):
        check(CASES[name], shape, torch.float32)


@pytest.mark.parametrize("hw", [(8, 8), (40, 40)], ids=["one pass", "two passes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_spread_gives_the_offset(hw, dtype):
    x = torch.full((2, 32, *hw), 3.0, dtype=dtype, device=DEVICE).contiguous(memory_format=torch.channels_last)
    bias = torch.linspace(-2, 2, 32, device=DEVICE)
    y, _, mean, rstd = launch_forward(x, None, None, torch.ones_like(bias), bias, None, None, None, 4, 1e-5, "none", 0.0)
    assert relative(y, F.silu(bias.double())[None, :, None, None].expand(x.shape)) < TOLERANCE[dtype]
    assert relative(mean, torch.full_like(mean, 3.0)) < 1e-6
    assert relative(rstd, torch.full_like(rstd, 1e5**0.5)) < 1e-3


@pytest.mark.parametrize("hw", [(16, 16), (40, 40)], ids=["one pass", "two passes"])
@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_a_mean_far_from_zero(hw, ratio):
    """Centred sums keep what E[x^2] - E[x]^2 loses; the rest is what a mean rounded to float32 costs."""
    shape = Shape(2, *hw, 32, 4)
    given = CASES["norm"].inputs(shape, torch.float32, DEVICE, normal(1))
    given["x"] = given["x"] / 1.5 + ratio
    check(CASES["norm"], shape, torch.float32, given, loose=max(1.0, ratio * 0.05))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["norm", "norm-adaptive", "norm-cat"])
def test_error_is_at_most_half_more_than_torchs(name, dtype):
    """bf16 is compared on a card: the interpreter cuts where a card rounds."""
    case, shape = CASES[name], Shape(2, 16, 16, 64, 4, 32 if name == "norm-cat" else 0)
    given = case.inputs(shape, dtype, DEVICE, normal(2))
    wide = {key: t.double() for key, t in given.items()}
    exact = case.reference(wide, shape)[0]
    h = torch.cat([given[key] for key in ("x", "other") if key in given], 1)
    y = F.group_norm(h, shape.parts, given["weight"].to(dtype), given["bias"].to(dtype), 1e-5)
    if "scale" in given:
        y = torch.addcmul(given["shift"][:, :, None, None], y, 1 + given["scale"][:, :, None, None])
    assert relative(case.launched(given, shape, None)[0][0], exact) <= 1.5 * relative(F.silu(y), exact)


def test_a_batch_in_slices_is_the_batch(monkeypatch):
    shape = Shape(3, 36, 32, 32, 2)
    case = CASES["norm-add"]
    given = case.inputs(shape, torch.float32, DEVICE, normal(3))
    whole = case.launched(given, shape, None)[0]
    monkeypatch.setattr(norm_tiles, "SLICE", 1)
    with recorded(90) as launches:
        case.launched(given, shape, None)
    assert len(launches) == 9
    assert all(torch.equal(a, b) for a, b in zip(whole, case.launched(given, shape, None)[0], strict=True))


def test_the_same_bits_every_time():
    case, shape = CASES["norm-add-cat"], Shape(2, 9, 9, 48, 6, 24)
    given = case.inputs(shape, torch.bfloat16, DEVICE, normal(4))
    first = case.launched(given, shape, None)[0]
    assert all(torch.equal(a, b) for _ in range(3) for a, b in zip(first, case.launched(given, shape, None)[0], strict=True))


def test_wrong_layouts_are_refused_in_words():
    x = torch.zeros(2, 16, 4, 4, device=DEVICE)
    w = torch.ones(16, device=DEVICE)
    with pytest.raises(ValueError, match=r"x \(2, 16, 4, 4\) has strides \(256, 16, 4, 1\), not those of NHWC; use x.contiguous"):
        launch_forward(x, None, None, w, w, None, None, None, 4, 1e-5, "none", 0.0)


def test_a_sample_too_large_is_refused():
    x = torch.empty(1, 64, 4096, 4096, device="meta").contiguous(memory_format=torch.channels_last)
    w = torch.empty(64, device="meta")
    with recorded(90), pytest.raises(ValueError, match="4096x4096 pixels and 64 channels is too large"):
        launch_forward(x, None, None, w, w, None, None, None, 4, 1e-5, "none", 0.0)
