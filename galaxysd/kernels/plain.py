"""The one other path of every op: inside `with lowered():` the public functions are their plain-torch definitions.

For graph export, which wants standard operators, and for forward-mode derivatives. Nothing else selects it. It holds for the whole
process: torch.compile can watch a variable of a module, and so compiles anew on either side, where it could not follow a context variable.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_depth = 0  # how many `lowered()` are open


@contextmanager
def lowered() -> Iterator[None]:
    """Within it, ops are plain torch, in every thread."""
    _add(1)
    try:
        yield
    finally:
        _add(-1)


def _add(change: int) -> None:
    global _depth
    with _lock:
        _depth += change


def is_lowered() -> bool:
    """Whether we are within `lowered()`."""
    return _depth > 0
