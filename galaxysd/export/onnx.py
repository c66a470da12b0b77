"""The denoiser as an ONNX graph, written with its proof: golden inputs and outputs, and what onnxruntime makes of them."""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from galaxysd import files, seeds
from galaxysd.diffusion.denoiser import Denoiser
from galaxysd.errors import GalaxySDError, Unavailable
from galaxysd.kernels import lowered
from galaxysd.sample.generate import Generator

OPSET = 21
TOLERANCE = 1e-4  # largest difference over the spread of the output, float32 on a CPU
BATCHES = (1, 4, 16)


class Call(nn.Module):
    """One call of the denoiser with guidance left to the caller: the whole interface of the graph."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor, features: Tensor) -> Tensor:
        out: Tensor = self.denoiser(x, sigma, features)
        return out


def denoiser_graph(generator: Generator, out: Path) -> dict[str, Any]:
    """Writes denoiser.onnx, goldens.npz and parity.json into `out`; an export that does not agree with torch is an error."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"export needs {error.name}; pip install 'galaxysd[export]'") from error
    if generator.denoiser.dtype is not torch.float32:
        raise GalaxySDError("export: the model was loaded in bf16; load it with dtype='fp32'")
    with files.filled(out) as folder:
        result = _written(generator, folder)
    if result["verdict"] != "passed":
        worst = max(result["cases"], key=lambda case: case["error"])
        raise GalaxySDError(
            f"{out}: the graph does not agree with torch: error {worst['error']:.2e} at batch {worst['batch']}, {TOLERANCE:.0e} allowed"
        )
    return result


def _written(generator: Generator, out: Path) -> dict[str, Any]:
    """Writes graph, goldens and parity; gives the parity."""
    import onnx
    import onnxruntime

    call, example = Call(generator.denoiser), _inputs(generator, 2)
    batch = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings(), lowered(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter speaks of its own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            call,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=["x", "sigma", "features"],
            output_names=["x0"],
            dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    domains = {each.domain for each in model.opset_import if each.domain not in ("", "ai.onnx")}
    used = {node.domain for node in model.graph.node} & domains
    if used:
        raise GalaxySDError(f"export: the graph needs operators of {sorted(used)}; only standard ones are allowed")
    onnx.checker.check_model(model)
    files.commit(out / "denoiser.onnx", lambda file: file.write(model.SerializeToString()))

    session = onnxruntime.InferenceSession(out / "denoiser.onnx", providers=["CPUExecutionProvider"])
    parity = compare(generator, session)
    files.commit(out / "goldens.npz", lambda file: archive(file, _goldens(generator)))
    provider = session.get_providers()[0]
    result = {
        "graph": "denoiser.onnx",
        "opset": OPSET,
        "model_sha256": generator.digest.sha256,
        "onnx_sha256": files.digest(out / "denoiser.onnx").sha256,
        "provider": provider,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "tolerance": TOLERANCE,
        "cases": parity,
        "verdict": "passed" if all(case["error"] <= TOLERANCE for case in parity) else "failed",
    }
    files.commit_json(out / "parity.json", result)
    return result


def compare(generator: Generator, session: Any, batches: Sequence[int] = BATCHES) -> list[dict[str, Any]]:
    """The largest difference between the graph and torch over the output's spread, at several batch sizes and all noise levels."""
    cases = []
    for size in batches:
        x, sigma, features = _inputs(generator, size)
        with torch.inference_mode():
            want = generator.denoiser(x, sigma, features).numpy()
        (got,) = session.run(None, {"x": x.numpy(), "sigma": sigma.numpy(), "features": features.numpy()})
        cases.append({"batch": size, "error": float(np.abs(got - want).max() / want.std()), "output_std": float(want.std())})
    return cases


def _inputs(generator: Generator, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images at noise levels from the smallest to the largest, under drawn conditions."""
    config, frame = generator.config.diffusion, generator.frame
    ramp = torch.linspace(0, 1, batch).double()
    sigma = (config.sigma_min * (config.sigma_max / config.sigma_min) ** ramp).float()
    shape = (len(frame.bands), frame.size, frame.size)
    x = seeds.normal(0, "export-x", range(batch), shape) * (sigma**2 + config.sigma_data**2).sqrt()[:, None, None, None]
    width = generator.denoiser.net.embedding.condition_in.in_features  # type: ignore[union-attr]
    return x, sigma, seeds.uniform(0, "export-features", range(batch), (width,)).float()  # type: ignore[arg-type]


def archive(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as an .npz that holds no pickle: before numpy 2.2 `savez` takes a word that forbids one for an array's name."""
    with zipfile.ZipFile(file, "w") as bundle:
        for name, array in arrays.items():
            with bundle.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _goldens(generator: Generator) -> dict[str, np.ndarray]:
    x, sigma, features = _inputs(generator, 4)
    with torch.inference_mode():
        x0 = generator.denoiser(x, sigma, features)
    return {"x": x.numpy(), "sigma": sigma.numpy(), "features": features.numpy(), "x0": x0.numpy()}
