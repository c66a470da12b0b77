"""The train step compiled: a task's objective, network and loss, as one graph forward and one backward, never compiled twice in a run.

What was compiled is kept by torch in the user's own folder, so that the next start is short.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch._dynamo
from torch import nn

from galaxysd.errors import Unavailable

BACKEND = "inductor"
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def resolve_compile(name: str, device: torch.device) -> bool:
    """`auto` compiles on CUDA; on a CPU a start of half a minute or more buys nothing that `python -m benchmarks` could measure."""
    return name == "on" or (name == "auto" and device.type == "cuda")


def compiled(objective: nn.Module, device: torch.device) -> nn.Module:
    """Compiles an objective in place, without a break in its graph, for the shapes it will see; it is done at its first call."""
    if BACKEND == "inductor":
        _need_a_compiler(device)
        os.environ.setdefault(CACHE, str(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "galaxysd" / "compiled"))
    torch.compiler.reset()  # a run's graphs are its own: those of an earlier one in this process would count as compiled anew
    objective.compile(fullgraph=True, dynamic=False, backend=BACKEND)
    return objective


def _need_a_compiler(device: torch.device) -> None:
    """A CPU's code is compiled by the machine's own compiler; on CUDA Triton's readiness was looked at with the device."""
    if device.type != "cpu":
        return
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise Unavailable("train.compile: on, and this machine has no C++ compiler; install g++, or use --set train.compile=off") from error
