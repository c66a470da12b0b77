"""One step of the solver as a graph: Heun's two evaluations (EDM, algorithm 1), each with its guidance mixed inside.

Made from the graph of one denoiser call, put in twice over one set of weights. A runtime then draws a step with one call: x at noise
level `sigma` becomes x at `after`; where a strength is 1 there is no guidance, and where `after` is 0 the second evaluation is discarded.
"""

from __future__ import annotations

from typing import Any

from galaxysd.export.onnx import standard

INPUTS, OUTPUTS = ("x", "sigma", "after", "features", "strength", "strength_after"), ("ahead",)

# d = (x - D(x)) / sigma at both ends. `guided.denoise` marks the two places of the denoiser.
STEP = """
step (
    float[batch, C, S, S] x, float[batch] sigma, float[batch] after, float[batch, F] features,
    float[batch] strength, float[batch] strength_after
) => (float[batch, C, S, S] ahead)
<int64[3] step_pixels = {1, 2, 3}, float step_zero = {0.0}, float step_half = {0.5}>
{
    step_now = Unsqueeze (sigma, step_pixels)
    step_later = Unsqueeze (after, step_pixels)
    step_span = Sub (step_later, step_now)
    step_none = Sub (features, features)
    step_conditions = Concat <axis = 0> (features, step_none)

    step_x_twice = Concat <axis = 0> (x, x)
    step_sigma_twice = Concat <axis = 0> (sigma, sigma)
    step_both = guided.denoise (step_x_twice, step_sigma_twice, step_conditions)
    step_with, step_without = Split <axis = 0, num_outputs = 2> (step_both)
    step_difference = Sub (step_with, step_without)
    step_weight = Unsqueeze (strength, step_pixels)
    step_change = Mul (step_weight, step_difference)
    step_x0 = Add (step_without, step_change)
    step_rest = Sub (x, step_x0)
    step_slope = Div (step_rest, step_now)
    step_way = Mul (step_span, step_slope)
    step_euler = Add (x, step_way)

    step_goes_on = Greater (after, step_zero)
    step_level = Where (step_goes_on, after, sigma)
    step_level_pixels = Unsqueeze (step_level, step_pixels)
    step_euler_twice = Concat <axis = 0> (step_euler, step_euler)
    step_level_twice = Concat <axis = 0> (step_level, step_level)
    step_both_after = guided.denoise (step_euler_twice, step_level_twice, step_conditions)
    step_with_after, step_without_after = Split <axis = 0, num_outputs = 2> (step_both_after)
    step_difference_after = Sub (step_with_after, step_without_after)
    step_weight_after = Unsqueeze (strength_after, step_pixels)
    step_change_after = Mul (step_weight_after, step_difference_after)
    step_x0_after = Add (step_without_after, step_change_after)
    step_rest_after = Sub (step_euler, step_x0_after)
    step_slope_after = Div (step_rest_after, step_level_pixels)
    step_slopes = Add (step_slope, step_slope_after)
    step_mean = Mul (step_half, step_slopes)
    step_way_after = Mul (step_span, step_mean)
    step_heun = Add (x, step_way_after)
    step_goes_on_pixels = Unsqueeze (step_goes_on, step_pixels)
    ahead = Where (step_goes_on_pixels, step_heun, step_euler)
}
"""


def step_graph(call: Any) -> Any:
    """The step of a denoiser's graph (inputs x, sigma, features), as a checked model of the same opset."""
    import onnx

    channels, side = (call.graph.input[0].type.tensor_type.shape.dim[axis].dim_value for axis in (1, 2))
    features = call.graph.input[2].type.tensor_type.shape.dim[1].dim_value
    text = STEP.replace("C, S, S", f"{channels}, {side}, {side}").replace("batch, F", f"batch, {features}")
    frame = onnx.parser.parse_graph(text)
    nodes = []
    for node in frame.node:
        if node.domain == "guided":
            nodes += _placed(call.graph, f"{node.output[0]}.", list(node.input), node.output[0])
        else:
            nodes.append(node)
    whole = onnx.helper.make_graph(nodes, "step", frame.input, frame.output, [*frame.initializer, *call.graph.initializer])
    model = onnx.helper.make_model(whole, opset_imports=call.opset_import, ir_version=call.ir_version, producer_name="galaxysd")
    standard(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _placed(graph: Any, prefix: str, given: list[str], out: str) -> list[Any]:
    """The nodes of a graph with their own names for everything but the weights."""
    import onnx

    names = {weight.name: weight.name for weight in graph.initializer} | {"": "", graph.output[0].name: out}
    names |= dict(zip((each.name for each in graph.input), given, strict=True))
    nodes = []
    for node in graph.node:
        assert not any(attribute.HasField("g") for attribute in node.attribute), f"{node.op_type} has a graph inside"
        placed = onnx.NodeProto()
        placed.CopyFrom(node)
        placed.name = prefix + node.name
        for side in (placed.input, placed.output):
            side[:] = [names.get(name, prefix + name) for name in side]
        nodes.append(placed)
    return nodes
