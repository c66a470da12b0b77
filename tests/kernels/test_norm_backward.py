"""The backward launcher: derivatives in float64, gradients handed over strided, addends, every path, the same bits every time."""

from __future__ import annotations

import pytest
import torch

from galaxysd.kernels.cases import CASES, Shape
from galaxysd.kernels.launching import recorded
from galaxysd.kernels.norm_backward import launch_backward
from galaxysd.kernels.norm_forward import launch_forward
from tests.kernels.checks import DEVICE, check, cotangents_of, normal, relative, truth

PATHS = {
    "one pass": (Shape(2, 7, 9, 48, 6), "_one_pass"),
    "a slab read twice": (Shape(1, 31, 33, 32, 4), "_reload"),
    "two passes": (Shape(1, 34, 33, 32, 4), "_spread"),
    "two passes, partials merged in turns": (Shape(1, 23, 23, 200, 1), "_spread"),
    "two passes, one group of all": (Shape(2, 5, 5, 200, 1), "_spread"),
}


@pytest.mark.parametrize("path", PATHS)
def test_each_path_is_taken_and_right(path):
    shape, kernel = PATHS[path]
    case = CASES["norm-adaptive"]
    given = case.inputs(shape, torch.float32, DEVICE, normal(0))
    with recorded(90) as launches:
        case.launched(given, shape, cotangents_of(case.reference(given, shape)))
    assert kernel in {launch.kernel.__name__ for launch in launches}
    for name in ("norm-adaptive", "norm-add", "norm-dropout", "norm-up"):
        check(CASES[name], shape, torch.float32)


class _Launched(torch.autograd.Function):
    """The launchers as a function to differentiate, with nothing of ours between."""

    @staticmethod
    def forward(ctx, x, other, weight, bias, scale, shift, key, form):
        y, _, mean, rstd = launch_forward(x, None, other, weight, bias, scale, shift, key, form[0], 1e-5, *form[1:])
        ctx.save_for_backward(x, other, weight, bias, scale, shift, key, mean, rstd)
        ctx.form = form
        return y

    @staticmethod
    def backward(ctx, dy):
        found = launch_backward(dy, *ctx.saved_tensors, None, None, *ctx.form)
        return *found, None, None


@pytest.mark.parametrize(("resample", "dropout"), [("none", 0.0), ("up", 0.3), ("down", 0.0)])
def test_derivatives_in_float64(resample, dropout):
    shape = Shape(2, 4, 2, 6, 3, 3)
    draw = normal(5)
    maps = [draw(n, (2, c, 4, 2)).to(DEVICE).contiguous(memory_format=torch.channels_last) for n, c in (("x", 6), ("o", 3))]
    small = [draw(n, s).to(DEVICE) for n, s in (("w", (9,)), ("b", (9,)), ("s", (2, 9)), ("t", (2, 9)))]
    leaves = [t.requires_grad_() for t in (*maps, *small)]
    key = torch.tensor([7, 8], device=DEVICE) if dropout else None
    assert torch.autograd.gradcheck(lambda *t: _Launched.apply(*t, key, (shape.parts, resample, dropout)), leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_that_come_strided(dtype):
    """What the backward of a concatenation hands over is a slice of channels; what a sum does, one value expanded."""
    case, shape = CASES["norm-add"], Shape(2, 6, 5, 32, 4)
    given = case.inputs(shape, dtype, DEVICE, normal(6))
    outputs, _ = case.launched(given, shape, None)
    wide = [normal(7)(f"wide{k}", (2, 96, 6, 5)).to(DEVICE, dtype).contiguous(memory_format=torch.channels_last) for k in range(2)]
    for strided in ([t[:, 32:64] for t in wide], [t[:, :1].expand(outputs[0].shape) for t in wide]):
        assert not strided[0].is_contiguous(memory_format=torch.channels_last)
        dense = tuple(t.contiguous(memory_format=torch.channels_last) for t in strided)
        found, wanted = (case.launched(given, shape, each)[1] for each in (tuple(strided), dense))
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_addends_are_added_once():
    case, shape = CASES["norm-add-cat"], Shape(2, 6, 5, 24, 4, 8)
    given = case.inputs(shape, torch.float32, DEVICE, normal(8))
    cotangents = cotangents_of(case.launched(given, shape, None)[0])
    none = (cotangents[0], *(torch.zeros_like(t) for t in cotangents[1:]))
    with_addends, without = (case.launched(given, shape, each)[1] for each in (cotangents, none))
    assert relative(with_addends["x"] - without["x"], cotangents[1]) < 1e-6
    assert relative(with_addends["other"] - without["other"], cotangents[2]) < 1e-6
    assert torch.equal(with_addends["weight"], without["weight"])


def test_an_empty_batch_has_no_gradient():
    case, shape = CASES["norm-adaptive"], Shape(0, 6, 5, 32, 4)
    given = case.inputs(shape, torch.float32, DEVICE, normal(9))
    outputs, _ = case.launched(given, shape, None)
    _, gradients = case.launched(given, shape, outputs)
    assert gradients["weight"].tolist() == gradients["bias"].tolist() == [0.0] * 32
    assert gradients["x"].shape == (0, 32, 6, 5)


def test_the_same_bits_every_time():
    case, shape = CASES["norm-adaptive"], Shape(3, 33, 32, 48, 3)
    given = case.inputs(shape, torch.bfloat16, DEVICE, normal(4))
    cotangents = cotangents_of(case.launched(given, shape, None)[0])
    first, again = (case.launched(given, shape, cotangents)[1] for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_no_spread_has_the_definitions_gradient():
    case, shape = CASES["norm"], Shape(2, 8, 8, 32, 4)
    given = case.inputs(shape, torch.float32, DEVICE, normal(10)) | {
        "x": torch.full((2, 32, 8, 8), 2.0, device=DEVICE).contiguous(memory_format=torch.channels_last)
    }
    outputs, _ = case.launched(given, shape, None)
    cotangents = cotangents_of(outputs)
    _, gradients = case.launched(given, shape, cotangents)
    _, slopes = truth(case, given, shape, cotangents)
    for key, slope in slopes.items():
        assert relative(gradients[key], slope) < 1e-4 or float(slope.norm()) < 1e-6, key


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # a card gives infinity and says nothing, which is meant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_far_below_zero_are_zero(dtype):
    case, shape = CASES["norm-adaptive"], Shape(2, 6, 5, 32, 4)
    given = case.inputs(shape, dtype, DEVICE, normal(11))
    given["weight"] = given["weight"] * 1000  # z reaches -3000: exp(-z) is infinite in float32
    check(case, shape, dtype, given, loose=3.0)
