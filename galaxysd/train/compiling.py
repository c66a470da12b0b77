"""The train step compiled, block by block: each a graph forward and a graph backward, never compiled again within a run.

Blocks, for they start sooner than the whole and blocks of one shape share a graph: what stands between them is a few operators. What was
compiled is kept by torch in the user's own folder, so that the next start is short.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
import torch._dynamo
from torch import nn

from galaxysd.errors import Unavailable

BACKEND = "inductor"
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def resolve_compile(name: str, device: torch.device) -> bool:
    """`auto` compiles on CUDA alone: on a CPU the start takes minutes, and what it buys is not measured by a command of ours yet."""
    return name == "on" or (name == "auto" and device.type == "cuda")


def compiled(objective: nn.Module, blocks: tuple[type[nn.Module], ...], device: torch.device) -> nn.Module:
    """Compiles the blocks of an objective in place, each as a graph without a break for the shapes of its first call, which does it."""
    if BACKEND == "inductor":
        _need_a_compiler(device)
        _keep_in_the_users_folder()
    torch.compiler.reset()  # a run's graphs are its own: those of an earlier one in this process would count as compiled anew
    found = [module for module in objective.modules() if isinstance(module, blocks)]
    torch._dynamo.config.recompile_limit = 2 * len(found)  # blocks share one code, and one graph where their shapes are alike
    torch._dynamo.config.optimize_ddp = False  # cuts graphs so that ranks exchange gradients early; blocks are cuts already
    # Torch's compiler looks at all attributes of what enters a block, and is warned of one by torch itself.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    for block in found:
        block.compile(fullgraph=True, dynamic=False, backend=BACKEND)
    return objective


def _keep_in_the_users_folder() -> None:
    """Compiled code is run again: torch's own place for it is in a folder that everybody can write to."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(CACHE, default_cache_dir()) == default_cache_dir():  # torch says its own aloud when it is imported
        os.environ[CACHE] = str(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "galaxysd" / "compiled")


def _need_a_compiler(device: torch.device) -> None:
    """A CPU's code is compiled by the machine's own compiler; on CUDA Triton's readiness was looked at with the device."""
    if device.type != "cpu":
        return
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise Unavailable("train.compile: on, and this machine has no C++ compiler; install g++, or use --set train.compile=off") from error
