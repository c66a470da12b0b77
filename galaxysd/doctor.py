"""`galaxysd doctor`: what works on this machine, each "no" with what to do about it.

It reports and changes nothing; the file of its disk test is removed again. Everything is tried, not read off a version: ONNX
Runtime, for one, falls back to the CPU in silence.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import galaxysd
from galaxysd.errors import BadInput
from galaxysd.host import cpu_name, machine, version

# An ONNX model of one node, y = -x for two floats: a session can be tried where the package onnx is not installed.
NEGATE = bytes.fromhex(
    "08083a320a0b0a017812017922034e65671201675a0f0a0178120a0a08080112040a020802620f0a0179120a0a08080112040a02080242040a001011"
)
MEBIBYTE = 1 << 20
WRITTEN = 64 * MEBIBYTE
SLOW_WRITE = 20.0  # MB/s; a set of a million 64-pixel galaxies is 50 GB
LITTLE_DISK = 5.0  # GB; a training run with its sets and grids fits into less


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it works, what was found, and what to do when it does not."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--at", type=Path, default=Path(), metavar="FOLDER", help="where results would be written (this folder)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> None:
    if not args.at.is_dir():
        raise BadInput(f"--at {args.at}: no such folder")
    if args.json:
        found = [asdict(finding) for finding in examine(args.at)]
        print(json.dumps({"galaxysd": galaxysd.__version__, "machine": machine(), "findings": found}, indent=1))
        return
    print(f"galaxysd {galaxysd.__version__}, Python {platform.python_version()}, {cpu_name()}, {os.cpu_count()} CPUs")
    for finding in examine(args.at):
        print(f"{'ok' if finding.ok else 'no':<3} {finding.name:<14} {finding.found}", flush=True)
        if finding.advice:
            print(f"{'':<18} -> {finding.advice}")


def examine(folder: Path) -> Iterator[Finding]:
    """Gives the findings in the order a reader wants them; results would be written under `folder`."""
    looks: list[Callable[[], Finding]] = [
        look_torch,
        look_cuda,
        look_bf16,
        look_triton,
        look_onnxruntime,
        look_clash,
        look_tensorrt,
        lambda: look_write_speed(folder),
        lambda: look_disk(folder),
    ]
    for look in looks:
        yield look()


def look_torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", False, first_line(error), "pip install 'torch>=2.11'")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    return Finding("torch", True, f"{torch.__version__}, {build}, {torch.get_num_threads()} threads")


def without_torch(name: str) -> Finding:
    return Finding(name, False, "not known while torch is missing", "install torch, then look again")


def look_cuda() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return without_torch("CUDA")
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        more = f", and {torch.cuda.device_count() - 1} more" if torch.cuda.device_count() > 1 else ""
        found = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, compute capability {properties.major}.{properties.minor}{more}"
        return Finding("CUDA", True, found)
    if shutil.which("nvidia-smi") is None:
        return Finding("CUDA", False, "no NVIDIA driver; everything runs on the CPU", "nothing, unless this machine has an NVIDIA card")
    if torch.version.cuda is None:
        advice = "install a CUDA build of torch: pip install --force-reinstall torch, without constraints-cpu.txt"
        return Finding("CUDA", False, "there is a driver, but this torch is a CPU build", advice)
    found = f"there is a driver, but torch (CUDA {torch.version.cuda}) finds no device"
    return Finding("CUDA", False, found, "compare with the CUDA version nvidia-smi shows, and look at CUDA_VISIBLE_DEVICES")


def look_bf16() -> Finding:
    try:
        import torch

        from galaxysd.diffusion.denoiser import cpu_computes_bf16
    except (ImportError, OSError):
        return without_torch("bf16")
    if torch.cuda.is_available():
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
        return Finding("bf16", capable, "on the GPU", "" if capable else "train and sample with --set train.dtype=fp32")
    if cpu_computes_bf16():
        return Finding("bf16", True, "on the CPU (avx512_bf16 or amx_bf16)")
    return Finding("bf16", False, "this CPU has neither avx512_bf16 nor amx_bf16", "nothing: float32 is used by itself")


def look_triton() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return without_torch("Triton")
    try:
        import triton
    except (ImportError, OSError) as error:
        return Finding("Triton", False, first_line(error), "on Linux x86-64 with a card: pip install triton; a CPU does without")
    if not torch.cuda.is_available():
        return Finding(
            "Triton", False, f"{triton.__version__}, but no device to compile for", "nothing: on a CPU torch's own operators are used"
        )
    if not any(shutil.which(name) for name in (os.environ.get("CC", ""), "cc", "gcc", "clang") if name):
        return Finding("Triton", False, f"{triton.__version__}, but no C compiler", "install gcc: Triton compiles its launchers with it")
    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # whatever a driver raises is what the user needs to read
        return Finding("Triton", False, f"{triton.__version__}: {first_line(error)}", "reinstall triton in the version this torch asks for")
    from galaxysd.kernels.launching import unready

    reason = unready(torch.device("cuda"))
    if reason is not None:
        return Finding("Triton", False, reason, "use --device cpu, or a card that is named here")
    return Finding("Triton", True, str(triton.__version__))


def look_onnxruntime() -> Finding:
    try:
        runtime = importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:
        return Finding("ONNX Runtime", False, first_line(error), "pip install 'galaxysd[export]', or [export-gpu] on a machine with CUDA")
    import numpy as np

    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what fails to load shows in the providers below
    session = runtime.InferenceSession(NEGATE, options, providers=runtime.get_available_providers())
    (answer,) = session.run(None, {"x": np.array([1, 2], np.float32)})
    # Azure's provider stands in every build and runs nothing locally.
    active = next(name for name in session.get_providers() if not name.startswith("Azure")).removesuffix("ExecutionProvider")
    found = f"{runtime.__version__}, {active} is active"
    if answer.tolist() != [-1, -2]:
        return Finding("ONNX Runtime", False, f"{found}, but it computes {answer.tolist()} for [-1, -2]", "reinstall it")
    if active == "CPU" and version("onnxruntime-gpu") is not None:
        advice = "onnxruntime-gpu runs on the CPU here: it needs its CUDA and cuDNN libraries; see what importing it prints"
        return Finding("ONNX Runtime", False, found, advice)
    missing = [name for name in ("onnx", "onnxscript") if version(name) is None]
    if missing:
        return Finding("ONNX Runtime", False, f"{found}; to export, {' and '.join(missing)} is missing", "pip install 'galaxysd[export]'")
    return Finding("ONNX Runtime", True, found)


def look_clash() -> Finding:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if version(name) is not None]
    if len(both) < 2:
        return Finding("no clash", True, f"of onnxruntime and onnxruntime-gpu: {both[0] if both else 'neither'}")
    advice = "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one you want"
    return Finding("no clash", False, "onnxruntime and onnxruntime-gpu are both installed, over each other", advice)


def look_tensorrt() -> Finding:
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return Finding("TensorRT", True, f"{name} {importlib.import_module(name).__version__}")
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:
            return Finding("TensorRT", False, f"{name}: {first_line(error)}", "its libraries do not load; reinstall it for this driver")
    return Finding(
        "TensorRT", False, "not installed", "only to build engines: pip install 'galaxysd[trt]' on a machine with an NVIDIA card"
    )


def look_write_speed(folder: Path) -> Finding:
    block = os.urandom(MEBIBYTE)  # random, so that a compressing file system has to write it
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began = time.perf_counter()
            for _ in range(WRITTEN // MEBIBYTE):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            speed = WRITTEN / 1e6 / (time.perf_counter() - began)
    except OSError as error:
        return Finding("writing", False, f"{folder.absolute()}: {error.strerror}", "choose a folder you may write to, with --out")
    found = f"{speed:,.0f} MB/s to {folder.absolute()}, fsync included"
    return Finding("writing", speed >= SLOW_WRITE, found, "" if speed >= SLOW_WRITE else "write sets to a faster disk, and copy them after")


def look_disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    return Finding(
        "free disk",
        free >= LITTLE_DISK,
        f"{free:,.1f} GB",
        "" if free >= LITTLE_DISK else f"free some: below {LITTLE_DISK:g} GB a set may not fit",
    )


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
