"""What computes here, as a result or a model says of where it comes from: processor, card, versions."""

from __future__ import annotations

import os
import platform
import resource
import time
from importlib import metadata
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What a result row says of where it was measured."""
    device = None
    if version("torch") is not None:
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    packages = ("torch", "triton", "numpy", "onnxruntime", "onnxruntime-gpu")
    versions = {name: found for name in packages if (found := version(name)) is not None}
    return {"cpu": cpu_name(), "cpus": os.cpu_count(), "gpu": device, "python": platform.python_version(), "versions": versions}


def version(package: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor(device: str) -> str:
    """The name of what computes on `device`: the card on cuda, else the CPU."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_seconds() -> float:
    """CPU time of this process and of those it has waited for: differences of it are what a piece of work took."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
