"""GroupNorm-SiLU against its definition: values, every gradient, both layouts, and the contract of a torch op."""

from __future__ import annotations

import pytest
import torch

from galaxysd.kernels import group_norm_silu, group_norm_silu_carry, lowered, norm

SHAPES = [(2, 16, 4, 4, 2), (3, 24, 5, 7, 3), (1, 8, 1, 1, 1), (2, 64, 8, 8, 8)]


def inputs(shape, dtype, adaptive, layout, seed=0):
    batch, channels, height, width, groups = shape
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=draw, dtype=torch.float64) * 2 + 1
    weight, bias = (torch.randn(channels, generator=draw, dtype=torch.float64) for _ in range(2))
    scale, shift = (torch.randn(batch, channels, generator=draw, dtype=torch.float64) for _ in range(2))
    parameters = torch.float32 if dtype is torch.bfloat16 else dtype
    x = x.to(dtype, memory_format=layout)
    weight, bias = weight.to(parameters), bias.to(parameters)
    return [x, weight, bias, *((scale.to(dtype), shift.to(dtype)) if adaptive else (None, None))], groups


def run(function, tensors, groups, wide):
    leaves = [t if t is None else (t.double() if wide else t).detach().requires_grad_() for t in tensors]
    y = function(leaves[0], leaves[1], leaves[2], groups, leaves[3], leaves[4])
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    y.backward(cotangent.to(y.dtype))
    return [y, *(leaf.grad for leaf in leaves if leaf is not None)]


def through_the_op(x, weight, bias, groups, scale, shift):
    """As compiled code and a card call it; an eager call on a CPU may do without."""
    return norm._forward(x, None, None, weight, bias, scale, shift, None, groups, 1e-5, "none", 0.0)[0]


@pytest.mark.parametrize("function", [group_norm_silu, through_the_op])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1.5e-2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, dtype, tolerance, adaptive, layout, function):
    if shape[2] * shape[3] * shape[1] // shape[4] < 16:
        tolerance *= 20  # a group of a few values divides by its own small spread
    tensors, groups = inputs(shape, dtype, adaptive, layout)
    found = run(function, tensors, groups, wide=False)
    wanted = run(norm.reference, tensors, groups, wide=True)
    for name, got, want in zip(("y", "dx", "dweight", "dbias", "dscale", "dshift"), found, wanted, strict=False):
        error = (got.double() - want).norm() / want.norm().clamp_min(1e-3)
        assert error < tolerance, f"{name}: relative error {error:.2e}"
    assert found[0].is_contiguous(memory_format=layout)


def op_arguments(layout, *, residual=False, other=False, adaptive=False, resample="none", dropout=0.0):
    """A call of the op itself, with what its forms take."""
    shape = (2, 12, 4, 6, 3)
    (x, weight, bias, scale, shift), groups = inputs(shape, torch.float32, adaptive, layout)
    more = [inputs(shape, torch.float32, False, layout, seed)[0][0] for seed in (1, 2)]
    second = more[1][:, :6].contiguous(memory_format=layout) if other else None
    if other:
        (_, weight, bias, scale, shift), _ = inputs((2, 18, 4, 6, 3), torch.float32, adaptive, layout)
    tensors = [x, more[0] if residual else None, second, weight, bias, scale, shift]
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
    return *leaves, torch.tensor([3, 4]) if dropout else None, groups, 1e-5, resample, dropout


FORMS = [
    {},
    {"adaptive": True},
    {"residual": True},
    {"other": True, "adaptive": True},
    {"residual": True, "other": True, "dropout": 0.2},
    {"adaptive": True, "resample": "up"},
    {"resample": "down", "dropout": 0.2},
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form) or "plain")
def test_op_contract(form, layout):
    """Schema, fake strides, autograd registration, and the same values and gradients when torch traces it."""
    torch.library.opcheck(norm._forward, op_arguments(layout, **form))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form) or "plain")
def test_carrying_is_the_op_and_what_it_read(form):
    """On a card blocks go through `_Carry`: the skip branch's gradients must arrive as if autograd had added them."""
    arguments = op_arguments(torch.channels_last, **form)
    x, residual, other = arguments[:3]

    def gradients(outputs):
        scalars = sum((t * (k + 1)).sin().sum() for k, t in enumerate(outputs))
        leaves = [t for t in arguments if isinstance(t, torch.Tensor) and t.requires_grad]
        return torch.autograd.grad(scalars, leaves)

    y, first, second = norm._Carry.apply(*arguments)
    found = gradients([t for t in (y, first, second) if t is not None])
    total = x if residual is None else x + residual
    wanted = gradients([t for t in (norm._forward(*arguments)[0], total, other) if t is not None])
    for got, want in zip(found, wanted, strict=True):
        assert (got - want).norm() <= 2e-6 * want.norm()


def test_what_is_carried_may_go_unused_and_the_norm_too():
    arguments = op_arguments(torch.channels_last, residual=True, other=True)
    y, first, second = norm._Carry.apply(*arguments)
    (alone,) = torch.autograd.grad(y.sum(), arguments[:1], retain_graph=True)
    assert bool(alone.any())
    assert torch.equal(torch.autograd.grad(first.sum() + second.sum(), arguments[1:2])[0], torch.ones_like(first))


# Dynamo makes an instance of an autograd function while it traces one, and torch warns of that.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_without_a_break_it_is_the_same():
    """Through both ways of the op, forward and backward, fullgraph."""
    arguments = op_arguments(torch.channels_last, residual=True, other=True, adaptive=True)

    def function(*given):
        y, first, second = norm._Carry.apply(*given)
        z = group_norm_silu(first * 2, given[3][:12], given[4][:12], 3)
        return y.sum() + (z * first).sum() + second.sin().sum()

    leaves = [t for t in arguments if isinstance(t, torch.Tensor)]
    wanted = torch.autograd.grad(function(*arguments), leaves)
    found = torch.autograd.grad(torch.compile(function, fullgraph=True, backend="aot_eager")(*arguments), leaves)
    for got, want in zip(found, wanted, strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm()


def test_a_lowered_compilation_is_not_taken_for_the_other():
    x, w = torch.ones(1, 4, 2, 2), torch.ones(4)
    seen = []

    def watch(graph, _):
        seen.append(graph)
        return graph.forward

    compiled = torch.compile(lambda t: group_norm_silu(t, w, w, 2), backend=watch, fullgraph=True)
    compiled(x)
    with lowered():
        compiled(x)
    names = [[str(node.target) for node in graph.graph.nodes if node.op == "call_function"] for graph in seen]
    assert ["galaxysd" in " ".join(each) for each in names] == [True, False]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradcheck(layout):
    tensors, groups = inputs((2, 8, 3, 2, 2), torch.float64, True, layout)
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda x, w, b, s, t: group_norm_silu(x, w, b, groups, s, t), leaves)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": 5}, "16 channels do not divide into 5 groups"),
        ({"weight": torch.ones(8)}, r"weight \(8,\)"),
        ({"scale": torch.zeros(2, 16)}, "come together"),
        ({"scale": torch.zeros(2, 8), "shift": torch.zeros(2, 8)}, r"must be \(2, 16\)"),
        ({"x": torch.zeros(2, 16, 4)}, "3 dimensions"),
        ({"x": torch.zeros(2, 16, 4, 4, dtype=torch.int32)}, "x is torch.int32; use bfloat16, float16 or float32"),
        ({"x": torch.zeros(2, 16, 0, 4)}, "no pixels or channels"),
        ({"weight": torch.ones(16, device="meta")}, "weight is on meta and x on cpu; move one"),
        ({"resample": "double"}, "resample is 'double'; use one of none, up, down"),
        ({"resample": "down", "x": torch.zeros(2, 16, 3, 4)}, "3x4 pixels cannot be halved; its sides must be even"),
        ({"dropout": 1.0, "key": torch.zeros(2, dtype=torch.int64)}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"dropout": 0.5}, "key missing; dropout needs both"),
        ({"key": torch.zeros(2, dtype=torch.int64)}, "key given; dropout needs both"),
        ({"dropout": 0.5, "key": torch.zeros(2)}, "key is torch.float32"),
    ],
)
def test_what_does_not_fit_is_said(change, words):
    arguments = {"x": torch.zeros(2, 16, 4, 4), "weight": torch.ones(16), "bias": torch.zeros(16), "groups": 4} | change
    with pytest.raises(ValueError, match=words):
        group_norm_silu(**arguments)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"residual": torch.zeros(2, 16, 4, 5)}, r"residual \(2, 16, 4, 5\) must have x's shape \(2, 16, 4, 4\)"),
        ({"residual": torch.zeros(2, 16, 4, 4, dtype=torch.float64)}, "residual is torch.float64 on cpu and x torch.float32"),
        ({"other": torch.zeros(2, 8, 4, 5)}, r"other \(2, 8, 4, 5\) must have x's batch, height and width"),
        ({"other": torch.zeros(2, 7, 4, 4)}, "23 channels do not divide into 4 groups"),
    ],
)
def test_sources_that_do_not_fit_are_said(more, words):
    with pytest.raises(ValueError, match=words):
        group_norm_silu_carry(torch.zeros(2, 16, 4, 4), torch.ones(16), torch.ones(16), 4, **more)
