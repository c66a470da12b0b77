"""`galaxysd export`, also `galaxysd-export`: writes a model for machines that have no torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from galaxysd.errors import GalaxySDError, Unavailable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a checkpoint, or a bundled name")
    parser.add_argument("--onnx", action="store_true", help="the denoiser as ONNX, checked against torch by onnxruntime")
    parser.add_argument("--trt", action="store_true", help="a TensorRT engine (not built yet by this version)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    if args.trt:
        raise Unavailable("--trt: this version does not build TensorRT engines yet; use --onnx, which TensorRT reads")
    if not args.onnx:
        raise GalaxySDError("nothing to export: give --onnx")
    from galaxysd.export.onnx import denoiser_graph
    from galaxysd.sample.generate import load

    found = denoiser_graph(load(args.model, dtype="fp32", device="cpu"), args.out)
    worst = max(case["error"] for case in found["cases"])
    line = f"{args.out}/denoiser.onnx: opset {found['opset']}, within {worst:.1e} of torch over the output's spread ({found['provider']})"
    print(json.dumps(found) if args.json else line)
