"""What `--only NAME` and its like choose from a fixed list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from galaxysd.errors import BadInput, nearest


class Named(Protocol):
    """Whatever has a name: an arm, a point, a preset."""

    @property
    def name(self) -> str: ...


Each = TypeVar("Each", bound=Named)


def chosen(every: Sequence[Each], names: Iterable[str] | None, option: str, what: str) -> list[Each]:
    """Those that are named, in the order of the list; all of them where none is. BadInput names one that is not on it."""
    wanted, known = list(names or ()), [each.name for each in every]
    for name in wanted:
        if name not in known:
            raise BadInput(f"{option} {name}: no such {what}{nearest(name, known)}")
    return [each for each in every if not wanted or each.name in wanted]
