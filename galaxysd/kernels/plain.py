"""The one other path of every op: inside `with lowered():` the public functions are their plain-torch definitions.

For graph export, which wants standard operators, and for forward-mode derivatives. Nothing else selects it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_lowered: ContextVar[bool] = ContextVar("lowered", default=False)


@contextmanager
def lowered() -> Iterator[None]:
    """Within it, ops are plain torch."""
    token = _lowered.set(True)
    try:
        yield
    finally:
        _lowered.reset(token)


def is_lowered() -> bool:
    """Whether we are within `lowered()`."""
    return _lowered.get()
