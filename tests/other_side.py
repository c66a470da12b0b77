"""The runner's modules of `export/`, imported as its own script finds them: neither installed nor of the package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

SIDE = Path(__file__).parents[1] / "export"


def module(name: str) -> ModuleType:
    """One of them, by name."""
    before = sys.dont_write_bytecode
    sys.path.insert(0, str(SIDE))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SIDE))
        sys.dont_write_bytecode = before
