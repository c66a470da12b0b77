"""`galaxysd export`, also `galaxysd-export`: writes a model for machines that have no torch."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

from galaxysd.errors import GalaxySDError, Unavailable

PROFILES, PRECISIONS = ("portable", "standard"), ("fp32", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a diffusion model or a classifier: a run folder, a checkpoint, or a bundled name")
    parser.add_argument("--onnx", action="store_true", help="ONNX graphs with goldens and a runner, checked against torch by onnxruntime")
    parser.add_argument("--trt", action="store_true", help="the same, and a TensorRT engine (not built by this version: exit 4)")
    parser.add_argument("--profile", choices=PROFILES, default=PROFILES[0], help="opset 21, or opset 23 with Attention (%(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the graph's own types (%(default)s)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="a new folder")


def run(args: argparse.Namespace) -> None:
    if not args.onnx and not args.trt:
        raise GalaxySDError("nothing to export: give --onnx")
    from galaxysd.export.bundle import export

    parity = export(args.model, args.out, args.profile, args.precision)
    worst = max(case["error"] for case in parity["cases"])
    line = (
        f"{args.out}: {args.profile} {args.precision}, {parity['verdict']}: {len(parity['cases'])} cases within {worst:.1e} of torch "
        f"({parity['provider']}); python {args.out}/run_bundle.py {args.out}"
    )
    print(json.dumps(parity) if args.json else line)
    if args.trt:
        raise Unavailable(f"--trt: {args.out} is written without an engine: {no_engine()}")


def no_engine() -> str:
    """Why there is no TensorRT engine, and what to do."""
    if importlib.util.find_spec("tensorrt") is None:
        return (
            "TensorRT is not installed; pip install 'galaxysd[trt]' on a machine with an NVIDIA driver, then export again to a new folder"
        )
    return "this version of galaxysd builds none; TensorRT's own trtexec builds one from the bundle's step.onnx"
