"""Every case's launchers, forward and every gradient, over drawn shapes and types; public functions equal their definitions."""

from __future__ import annotations

import pytest
import torch

from galaxysd.kernels.cases import CASES, Shape
from tests.kernels.bf16_dot import bf16_dot  # noqa: F401  (a fixture)
from tests.kernels.checks import DEVICE, TOLERANCE, check, cotangents_of, normal, relative, truth

hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis to draw shapes")
st = hypothesis.strategies
pytestmark = pytest.mark.usefixtures("bf16_dot")

NORMS = [name for name in CASES if name.startswith("norm")]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@st.composite
def norm_shapes(draw, name: str) -> Shape:
    """Odd maps, groups of any width, sources that split inside a group, batches down to none."""
    width, groups = draw(st.integers(1, 20)), draw(st.integers(1, 6))
    channels = width * groups
    second = draw(st.integers(0, channels - 1)) if "cat" in name else 0
    height, side = draw(st.integers(1, 18)), draw(st.integers(1, 18))
    if "down" in name:
        height, side = 2 * -(-height // 2), 2 * -(-side // 2)
    hypothesis.assume(height * side * width >= 4)
    return Shape(draw(st.integers(0, 3)), height, side, channels - second, groups, second)


def attention_shapes(_: str):
    return st.builds(
        lambda batch, height, side, heads, width: Shape(batch, height, side, heads * width, heads),
        st.integers(0, 2), st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.sampled_from([16, 32, 64]),
    )  # fmt: skip


def judge_drawn(name: str, examples: int) -> None:
    """Draws shapes and types for a case and checks its launchers, forward and every gradient."""
    shapes = norm_shapes(name) if name in NORMS else attention_shapes(name)

    # As drawn: to make a failing shape smaller takes the interpreter minutes.
    @hypothesis.settings(max_examples=examples, phases=[hypothesis.Phase.generate])
    @hypothesis.given(shapes, st.sampled_from(DTYPES))
    def judge(shape, dtype):
        check(CASES[name], shape, dtype)

    judge()


@pytest.mark.parametrize("name", CASES)
def test_launchers_over_drawn_shapes(name, tier):
    judge_drawn(name, tier("kernel-shapes"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_public_functions(name, dtype):
    """What a user calls, on this machine's device, with autograd through it."""
    case, shape = CASES[name], Shape(2, 6, 8, 64, 4, 32 if "cat" in name else 0) if name in NORMS else Shape(2, 6, 8, 64, 1)
    given = case.inputs(shape, dtype, DEVICE, normal(3))
    leaves = {key: t.detach().requires_grad_(t.is_floating_point()) for key, t in given.items()}
    outputs = case.ours(leaves, shape)
    wanted_outputs = case.reference({key: t.double() if t.is_floating_point() else t for key, t in given.items()}, shape)
    # On a CPU sources are carried as one map; on a card each on its own.
    assert relative(outputs[0], wanted_outputs[0]) < TOLERANCE[dtype]
    assert relative(torch.cat(outputs[1:], 1), torch.cat(wanted_outputs[1:], 1)) < TOLERANCE[dtype] if len(outputs) > 1 else True
    cotangents = cotangents_of(wanted_outputs)
    carried = [torch.cat(cotangents[1:], 1).to(dtype)] if len(outputs) == 2 else [t.to(dtype) for t in cotangents[1:]]
    torch.autograd.backward(outputs, [cotangents[0].to(dtype), *carried])
    _, slopes = truth(case, given, shape, tuple(t.to(dtype) for t in cotangents))
    for key, slope in slopes.items():
        assert relative(leaves[key].grad, slope) < 2 * TOLERANCE[dtype], key
