"""What can go wrong for a user, and the exit code each kind carries.

Everything expected is a `GalaxySDError`: the command line prints its one line and leaves with its code. Any other exception is a
bug of ours and keeps its traceback (exit 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GalaxySDError(Exception):
    """Usage or bad input: says where, what, both values and what to do."""

    exit_code = 2
    told = False  # by another process of the same command: this one leaves with the same code and says nothing


class BadInput(GalaxySDError):
    """A file or value that came from outside cannot be used."""


class Mismatch(GalaxySDError):
    """The folder belongs to another run, or another run holds it now."""

    exit_code = 3


class Unavailable(GalaxySDError):
    """Something of the machine is missing: a package, a device, disk space, a permission."""

    exit_code = 4


class Stopped(GalaxySDError):
    """Stopped cleanly on request; the same command goes on."""

    exit_code = 75


def nearest(word: str, known: Iterable[str]) -> str:
    """Gives "; did you mean X?" for the known name closest to `word`, or the short list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    if not names:
        return ""
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {shown}"
