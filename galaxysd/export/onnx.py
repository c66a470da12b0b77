"""From modules to ONNX graphs: standard operators only, a batch of any size, the precision that of the graph's own types.

Profiles: `portable` is opset 21 with attention as products and a softmax, for runtimes old and small; `standard` is opset 23 with the
Attention operator. Both have GroupNormalization: on onnxruntime's CPU it takes no longer than its form by InstanceNormalization.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from galaxysd import files
from galaxysd.data.transforms import Stretch
from galaxysd.diffusion.denoiser import Denoiser, frozen
from galaxysd.errors import GalaxySDError, Unavailable
from galaxysd.kernels import lowered
from galaxysd.kernels.attend import by_torch
from galaxysd.model.classifier import Classifier, concentrations
from galaxysd.model.layers import Attention

OPSETS = {"portable": 21, "standard": 23}
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Form:
    """What kind of graph is wanted."""

    profile: str
    precision: str

    @property
    def opset(self) -> int:
        return OPSETS[self.profile]

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]


class Call(nn.Module):
    """One call of the denoiser, guidance left to the caller: x [B, C, S, S], sigma [B], features [B, F] -> x0."""

    inputs, outputs = ("x", "sigma", "features"), ("x0",)

    def __init__(self, denoiser: Denoiser, form: Form) -> None:
        super().__init__()
        plain = copy.deepcopy(denoiser)
        plain.dtype, plain.layout = form.dtype, torch.contiguous_format
        self.denoiser = fitted(frozen(plain), form)

    def forward(self, x: Tensor, sigma: Tensor, features: Tensor) -> Tensor:
        out: Tensor = self.denoiser(x, sigma, features)
        return out


class Look(nn.Module):
    """One look of the classifier: images [B, C, S, S] as a set holds them -> fractions and concentrations [B, A], embedding [B, E]."""

    inputs, outputs = ("images",), ("fractions", "concentrations", "embedding")

    def __init__(self, net: Classifier, stretch: Stretch, form: Form) -> None:
        super().__init__()
        self.net, self.stretch, self.dtype = fitted(copy.deepcopy(net), form), stretch, form.dtype
        self.labels = net.labels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedding = self.net.embed(self.stretch.forward(images).to(self.dtype))
        alpha = concentrations(self.net.read(embedding), self.labels)
        # A sum for each question, without the scatter of `Schema.voters`, which few runtimes have in every precision.
        fractions = torch.cat([alpha[:, part] / alpha[:, part].sum(1, keepdim=True) for part in self.labels.slices], 1)
        return fractions, alpha, embedding.float()


def fitted(net: Net, form: Form) -> Net:
    """The network with what a profile asks of its layers."""
    if form.profile == "standard":
        for module in net.modules():
            if isinstance(module, Attention):
                module.attend = partial(by_torch, heads=module.heads, qk_gain=module.qk_gain)  # type: ignore[method-assign]
    return net


def graph(module: Call | Look, example: Sequence[Tensor], form: Form) -> Any:
    """The module as a checked ONNX model of standard operators, free in its batch."""
    needed()
    import onnx

    batch = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings(), lowered(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter speaks of its own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            tuple(example),
            dynamo=True,
            opset_version=form.opset,
            input_names=module.inputs,
            output_names=module.outputs,
            dynamic_shapes=({0: batch},) * len(example),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    standard(model)
    onnx.checker.check_model(model)
    return model


def needed() -> None:
    """Refuses a machine that cannot export before anything is traced."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"export needs {error.name}; pip install 'galaxysd[export]'") from error


def standard(model: Any) -> None:
    """Refuses operators outside ONNX's own domain."""
    used = {node.domain for node in model.graph.node} | {function.domain for function in model.functions}
    if strange := sorted(used - {"", "ai.onnx"}):
        raise GalaxySDError(f"export: the graph needs operators of {strange}; only standard ones are allowed")


def commit(model: Any, path: Path) -> None:
    """Writes a graph with its weights inside."""
    files.commit(path, lambda file: file.write(model.SerializeToString(deterministic=True)))
