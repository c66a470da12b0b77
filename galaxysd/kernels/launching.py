"""Launching Triton kernels: whether this machine can, which committed configuration a card takes, and the one way to call them.

Every launcher takes its configuration from `launches/`: a row for each (op, shape class, dtype, compute capability), searched by
`python -m benchmarks tune` and committed. Nothing is tuned at run time, so one card gives the same bits in every process. In Triton's
interpreter the rows of sm_90 are used. Within `recorded()` nothing is launched: the calls are listed instead, for the compile gate.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

triton: Any
tl: Any
try:
    triton, tl = importlib.import_module("triton"), importlib.import_module("triton.language")
except ImportError:  # kernels can then be defined, and refuse to be launched
    triton, tl = SimpleNamespace(jit=lambda function: function, __version__=""), SimpleNamespace()

TABLES = Path(__file__).with_name("launches")
OLDEST_TRITON = (3, 6)
INTERPRETED = hasattr(triton, "knobs") and bool(triton.knobs.runtime.interpret)
INTERPRETED_AS = 90
DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp32"}  # float64: interpreter only


@dataclass(frozen=True)
class Row:
    """One configuration: block sizes by the names of the kernel's own parameters, and what the compiler is told."""

    op: str
    shape: str
    dtype: str
    capability: int
    blocks: dict[str, int]
    warps: int
    stages: int


@dataclass(frozen=True)
class Launch:
    """A recorded call: what would have been launched."""

    kernel: Any
    row: Row
    programs: int
    args: tuple[Any, ...]
    constants: dict[str, Any]


@dataclass
class _Recording:
    capability: int
    launches: list[Launch]


_recording: ContextVar[_Recording | None] = ContextVar("recording", default=None)


@contextmanager
def recorded(capability: int) -> Iterator[list[Launch]]:
    """Within it launchers, given tensors of any device (meta will do), only list what they would launch on a card of `capability`."""
    recording = _Recording(capability, [])
    token = _recording.set(recording)
    try:
        yield recording.launches
    finally:
        _recording.reset(token)


@functools.cache
def rows() -> dict[tuple[str, str, str, int], Row]:
    """The committed launch tables."""
    found = [Row(**each) for table in sorted(TABLES.glob("*.json")) for each in json.loads(table.read_text())]
    return {(row.op, row.shape, row.dtype, row.capability): row for row in found}


def capabilities() -> list[int]:
    """The compute capabilities that have rows, 90 for 9.0."""
    return sorted({capability for *_, capability in rows()})


@functools.cache
def unready(device: torch.device) -> str | None:
    """Why our kernels cannot run on this CUDA device, with what works; None where they can."""
    if not triton.__version__:
        return "Triton is not installed: pip install triton, in the version this torch asks for"
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < OLDEST_TRITON:
        return f"Triton {triton.__version__} is too old: {'.'.join(map(str, OLDEST_TRITON))} or later is needed"
    major, minor = torch.cuda.get_device_capability(device)
    if 10 * major + minor not in capabilities():
        known = ", ".join(f"{each // 10}.{each % 10}" for each in capabilities())
        return f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}; kernels are built for {known}"
    return None


def capability_of(device: torch.device) -> int:
    """The compute capability whose rows a launch takes; RuntimeError in words where there are none."""
    recording = _recording.get()
    if recording is not None:
        return recording.capability
    if device.type != "cuda":
        if not INTERPRETED:
            raise RuntimeError(f"kernels: launched on {device}; they run on CUDA, or anywhere in Triton's interpreter (TRITON_INTERPRET=1)")
        return INTERPRETED_AS
    reason = unready(device)
    if reason is not None:
        raise RuntimeError(f"kernels: {reason}. A CPU runs everything as plain torch")
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def row(op: str, shape: str, x: Tensor) -> Row:
    """The configuration for a shape class of `op`, for x's dtype and card."""
    return rows()[op, shape, DTYPES[x.dtype], capability_of(x.device)]


def wrap_triton(kernel: Any) -> Any:
    """What a launcher calls: seen by torch.compile on a device, the bare kernel elsewhere.

    Named like torch's own: torch finds an op's kernels, and so what its compile cache depends on, by this word in the source.
    """
    if INTERPRETED or _recording.get() is not None:
        return kernel
    return torch.library.wrap_triton(kernel)


def launch(kernel: Any, programs: int, row: Row, *args: Any, **constants: Any) -> None:
    """Runs `programs` programs of a wrapped kernel: arguments by position, constants by name, blocks from the row."""
    constants |= row.blocks
    recording = _recording.get()
    if recording is not None:
        recording.launches.append(Launch(kernel, row, programs, args, constants))
    elif programs:
        kernel[(programs,)](*args, **constants, num_warps=row.warps, num_stages=row.stages)


def accumulator(dtype: torch.dtype) -> Any:
    """The type of sums and statistics: float32, or float64 where a derivative is checked."""
    return tl.float64 if dtype is torch.float64 else tl.float32


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The same as torch says it."""
    return torch.promote_types(dtype, torch.float32)
