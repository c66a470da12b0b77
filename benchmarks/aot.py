"""Compiles recorded launches for their cards, on any machine: registers, spills, width of loads, matrix instructions, shared memory.

No GPU is needed: Triton's wheel carries the assembler and disassemblers. What is compiled is what the launch would compile: `None` and
the integer 1 become constants, integers divisible by 16 and all pointers are said to be so (tensors come aligned from torch's
allocator). A process in Triton's interpreter has nothing to compile: run this without TRITON_INTERPRET.
"""

from __future__ import annotations

import importlib
import multiprocessing
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Hashable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from galaxysd.kernels import launching
from galaxysd.kernels.launching import Launch, Row

SHARED_LIMIT = {80: 166912, 89: 101376, 90: 232448, 100: 232448, 120: 101376}  # bytes a block may ask for, by compute capability

POINTERS = {
    **{torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.float64: "*fp64"},
    **{torch.int64: "*i64", torch.int32: "*i32", torch.int16: "*i16", torch.int8: "*i8", torch.uint8: "*u8", torch.bool: "*i1"},
}
ALIGNED = [["tt.divisibility", 16]]
LOAD = re.compile(r"\b(LDGSTS|LDG)\b(\.[\w.]+)?")
BULK = re.compile(r"\b(UTMALDG|UBLKCP)\b")
SPILL = re.compile(r"\b(LDL|STL)\b")
MATRIX = re.compile(r"\b(HMMA|HGMMA|IMMA|IGMMA|QMMA|QGMMA|DMMA|OMMA|UTC\w*MMA)\b")
USAGE = re.compile(r"\b(REG|STACK|LOCAL):(\d+)")


@dataclass(frozen=True)
class Compiled:
    """What became of one launch."""

    kernel: str
    row: Row
    registers: int
    spills: int  # instructions that read or write local memory
    stack: int  # bytes of stack and local memory a thread
    wide_loads: int  # 16 bytes a thread, or by the bulk copy unit
    narrow_loads: int
    matrix: dict[str, int]  # matrix instructions by kind
    shared: int  # dynamic shared memory, bytes
    seconds: float

    @property
    def faults(self) -> list[str]:
        """What no committed row may show."""
        wrong = [f"{self.spills} spills, {self.stack} bytes of stack"] if self.spills or self.stack else []
        if self.shared > SHARED_LIMIT[self.row.capability]:
            wrong.append(f"{self.shared} bytes of shared memory, {SHARED_LIMIT[self.row.capability]} allowed")
        return wrong if self.wide_loads else [*wrong, "no wide loads"]


@dataclass(frozen=True)
class _Request:
    """A compilation, by names and plain values: it travels to another process, and equal ones are done once."""

    module: str
    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Hashable], ...]
    aligned: tuple[int, ...]
    capability: int
    warps: int
    stages: int
    row: Row = field(compare=False)


def _request(launch: Launch) -> _Request:
    kernel, row = launch.kernel, launch.row
    values: dict[str, Any] = {**dict(zip(kernel.arg_names, launch.args, strict=False)), **launch.constants}
    signature, constants, aligned = [], [], []
    for index, parameter in enumerate(kernel.params):
        value = values.get(parameter.name, parameter.default)
        special = isinstance(value, int) and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (special and not isinstance(value, bool) and value == 1):
            kind = "constexpr"
            constants.append((parameter.name, value))
        elif isinstance(value, torch.Tensor):
            kind = POINTERS[value.dtype]
        elif isinstance(value, bool):
            kind = "u1"
        elif isinstance(value, int):
            kind = "i32" if -(2**31) <= value < 2**31 else "i64"
        else:
            kind = "fp32"
        if isinstance(value, torch.Tensor) or (special and kind in ("i32", "i64") and value % 16 == 0):
            aligned.append(index)
        signature.append((parameter.name, kind))
    names = kernel.fn.__module__, kernel.fn.__name__
    return _Request(*names, tuple(signature), tuple(constants), tuple(aligned), row.capability, row.warps, row.stages, row)


def _disassembled(cubin: bytes) -> tuple[str, str]:
    """Resource usage and machine code, by the tools of Triton's wheel."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        commands = [knobs.nvidia.cuobjdump.path, "-res-usage", path], [knobs.nvidia.nvdisasm.path, "-c", path]
        usage, code = (subprocess.run(command, capture_output=True, text=True, check=True) for command in commands)
    return usage.stdout + usage.stderr, code.stdout  # the usage goes to one or the other, by version


def _compile(request: _Request) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if launching.INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET is set: kernels of this process run in the interpreter and cannot be compiled")
    began = time.perf_counter()
    kernel = getattr(importlib.import_module(request.module), request.kernel)
    source = ASTSource(kernel, dict(request.signature), dict(request.constants), {(index,): ALIGNED for index in request.aligned})
    options = {"num_warps": request.warps, "num_stages": request.stages}
    built = triton.compile(source, target=GPUTarget("cuda", request.capability, 32), options=options)
    usage, code = _disassembled(built.asm["cubin"])
    used = Counter[str]()
    for name, value in USAGE.findall(usage):
        used[name] += int(value)
    widths = [".128" in f"{suffix}.".replace("LTC128B", "") for _, suffix in LOAD.findall(code)]
    return Compiled(
        kernel=request.kernel,
        row=request.row,
        registers=used["REG"],
        spills=len(SPILL.findall(code)),
        stack=used["STACK"] + used["LOCAL"],
        wide_loads=sum(widths) + len(BULK.findall(code)),
        narrow_loads=len(widths) - sum(widths),
        matrix=dict(Counter(MATRIX.findall(code))),
        shared=built.metadata.shared,
        seconds=time.perf_counter() - began,
    )


def compile_launch(launch: Launch) -> Compiled:
    """Compiles one recorded launch for the capability of its row."""
    return _compile(_request(launch))


def compile_all(launches: Iterable[Launch], workers: int = 2) -> list[Compiled]:
    """Compiles recorded launches in `workers` processes, each different one once; one result a launch, in their order."""
    requests = [_request(launch) for launch in launches]
    unique = list(dict.fromkeys(requests))
    if workers < 2 or len(unique) < 2:
        done = [_compile(request) for request in unique]
    else:  # spawned: a fork would take torch's threads along
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            done = list(pool.map(_compile, unique))
    found = dict(zip(unique, done, strict=True))
    return [replace(found[request], row=request.row) for request in requests]
