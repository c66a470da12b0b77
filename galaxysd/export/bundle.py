"""A bundle: a folder that holds a model for machines without torch, what it must answer, and the runner that holds it to that.

    bundle.json     what it is: graphs, frame, stretch, conditions, solver, tolerance        checksums.json  SHA-256 of every other file
    *.onnx          the graphs, weights inside                                               parity.json     what the runner found here
    goldens.npz     inputs and torch's outputs          config.json, labels.json, MODEL_CARD.md, README.md, LICENSE, and the runner itself

The export runs what it wrote, with the runner that it wrote beside it, in a process without this package; a bundle that parts from
torch is an error.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import galaxysd
from galaxysd import checkpoint, files
from galaxysd.config import Config
from galaxysd.data import conditions
from galaxysd.data.galaxies import NUMERIC, Frame
from galaxysd.data.schema import ALIASES, Schema
from galaxysd.data.transforms import Stretch
from galaxysd.errors import GalaxySDError, Unavailable
from galaxysd.export import goldens, onnx
from galaxysd.export.onnx import Call, Form, Look
from galaxysd.export.pages import card, readme
from galaxysd.export.step import INPUTS, OUTPUTS, step_graph
from galaxysd.model.classifier import Judge
from galaxysd.sample.generate import Generator, load

FORMAT = 1
RUNNER = ("run_bundle.py", "bundle_asking.py", "bundle_drawing.py", "bundle_opening.py", "bundle_reading.py", "bundle_writing.py")
BESIDE = (*RUNNER, "requirements.txt", "requirements-io.txt")
# The largest difference over a row's spread in float32; in half precision the norm of the difference over the row's own.
TOLERANCES = {"fp32": {"measure": "largest", "limit": 1e-4}, "fp16": {"measure": "norm", "limit": 2e-3}}


def runner() -> Path:
    """The folder that holds the runner: inside the package where it is installed, else beside it in the repository."""
    inside = Path(__file__).with_name("runner")
    found = inside if inside.is_dir() else Path(__file__).parents[2] / "export"
    if lacking := [name for name in BESIDE if not (found / name).is_file()]:
        raise GalaxySDError(f"{found}: lacks {lacking[0]}; install galaxysd again, or run from its repository")
    return found


def licence(runner: Path) -> Path:
    """The licence of galaxysd, beside the runner where it is installed."""
    return next(path for path in (runner / "LICENSE", runner.parent / "LICENSE") if path.is_file())


def export(model: str | Path, out: Path, profile: str = "portable", precision: str = "fp32") -> dict[str, Any]:
    """Writes the bundle of a diffusion model or of a classifier into the new folder `out`, and proves it; gives its parity."""
    onnx.needed()
    path, expected, _ = checkpoint.locate(model)
    _, about = checkpoint.check_header(path)
    form = Form(profile, precision)
    with files.filled(out) as folder:
        if about["kind"] == "classifier":
            what = _classifier(Judge(checkpoint.read(path, expected)), form, folder)
        else:
            what = _denoiser(load(model, dtype="fp32", device="cpu"), form, folder)
        about_bundle = {"format": FORMAT, "profile": profile, "precision": precision, "opset": form.opset, **what}
        about_bundle |= {"tolerance": TOLERANCES[precision], "batches": goldens.BATCHES, "made_by": made_by()}
        files.commit_json(folder / "bundle.json", about_bundle)
        files.commit(folder / "MODEL_CARD.md", lambda file: file.write(card(about_bundle, about).encode()))
        files.commit(folder / "README.md", lambda file: file.write(readme(about_bundle).encode()))
        _beside(folder)
        parity = proven(folder)
    if parity["verdict"] != "passed":
        worst = max(parity["cases"], key=lambda case: case["error"])
        raise GalaxySDError(
            f"{out}: the graphs do not agree with torch: {worst['what']} of {worst['unit']} at batch {worst['batch']} is off by "
            f"{worst['error']:.2e}, {parity['tolerance']['limit']:.0e} allowed"
        )
    return parity


def made_by() -> dict[str, str]:
    """The versions that wrote a bundle."""
    return {"galaxysd": galaxysd.__version__, "torch": str(torch.__version__), "python": platform.python_version()}


def _denoiser(generator: Generator, form: Form, folder: Path) -> dict[str, Any]:
    golden = goldens.of_denoiser(generator)
    call = onnx.graph(Call(generator.denoiser, form), [golden[name][:2] for name in Call.inputs], form)
    onnx.commit(call, folder / "denoiser.onnx")
    onnx.commit(step_graph(call), folder / "step.onnx")
    files.commit(folder / "goldens.npz", lambda file: goldens.archive(file, golden))
    diffusion, sample = generator.config.diffusion, generator.config.sample
    return {
        "kind": "denoiser",
        **_described(generator.config, generator.frame, generator.stretch, generator.schema, generator.digest, folder),
        "graphs": {
            "denoiser": {"file": "denoiser.onnx", "inputs": Call.inputs, "outputs": Call.outputs},
            "step": {"file": "step.onnx", "inputs": INPUTS, "outputs": OUTPUTS},
        },
        "conditions": {"numeric": NUMERIC, "scales": conditions.SCALES, "typical_voters": conditions.TYPICAL_VOTERS},
        "sampling": {
            "sigma_min": diffusion.sigma_min,
            "sigma_max": diffusion.sigma_max,
            "rho": diffusion.rho,
            "steps": sample.steps,
            "guidance": sample.guidance,
            "interval": sample.interval,
        },
    }


def _classifier(judge: Judge, form: Form, folder: Path) -> dict[str, Any]:
    golden = goldens.of_classifier(judge)
    look = onnx.graph(Look(judge.net, judge.stretch, form), [golden["images"][:2]], form)
    onnx.commit(look, folder / "classifier.onnx")
    files.commit(folder / "goldens.npz", lambda file: goldens.archive(file, golden))
    return {
        "kind": "classifier",
        **_described(judge.config, judge.frame, judge.stretch, judge.labels, judge.digest, folder),
        "graphs": {"classifier": {"file": "classifier.onnx", "inputs": Look.inputs, "outputs": Look.outputs}},
    }


def _described(config: Config, frame: Frame, stretch: Stretch, labels: Schema, digest: files.Digest, folder: Path) -> dict[str, Any]:
    files.commit_json(folder / "config.json", config.to_json())
    own = {name: (f"{name}_yes",) for name in labels.own}
    known = {alias: [each for each in meanings if each in labels.answers] for alias, meanings in (ALIASES | own).items()}
    files.commit_json(folder / "labels.json", labels.to_json() | {"aliases": {alias: found for alias, found in known.items() if found}})
    return {"name": config.name, "model_sha256": digest.sha256, "frame": frame.to_json(), "stretch": stretch.to_json()}


def _beside(folder: Path) -> None:
    """The runner, what it needs and the licence."""
    source = runner()
    for path in (*(source / name for name in BESIDE), licence(source)):
        content = path.read_bytes()
        files.commit(folder / path.name, lambda file, content=content: file.write(content))  # type: ignore[misc]


def recorded(folder: Path) -> None:
    """Commits the record of every file."""
    entries = {path.name: files.digest(path).to_json() for path in sorted(folder.iterdir()) if path.name != "checksums.json"}
    files.commit_json(folder / "checksums.json", {"format": FORMAT, "files": entries}, replace=True)


def proven(folder: Path) -> dict[str, Any]:
    """Runs a bundle by its own runner, in a process of its own, and adds what was found to it as parity.json."""
    recorded(folder)
    command = [sys.executable, str(folder / "run_bundle.py"), str(folder), "--check", "--json", "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if not done.stdout:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise (Unavailable if done.returncode == Unavailable.exit_code else GalaxySDError)(f"export: the runner says: {said}")
    parity: dict[str, Any] = json.loads(done.stdout)
    files.commit_json(folder / "parity.json", parity)
    recorded(folder)
    return parity
