"""The folder of a run: held by one process, not taken from anything else, and compared with the run that wants it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from galaxysd import files
from galaxysd.errors import GalaxySDError


def take(out: Path, hold: ExitStack) -> None:
    """Holds the folder, for one of several that want it, until `hold` is closed."""
    refuse_foreign(out)
    hold.enter_context(files.held(out))


def refuse_foreign(out: Path) -> None:
    """Nothing is locked, swept or written in a folder that holds something else than a run, or what its claiming left."""
    if not out.is_dir() or (out / "run.json").exists():
        return
    ours = (".lock", "trained_on.ids")
    foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in ours and not entry.name.startswith(files.TEMPORARY))
    if foreign:
        raise GalaxySDError(f"{out}: not empty ({foreign[0]}) and not a run; give a folder that does not exist yet")


def differences(mine: Any, theirs: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """What two descriptions of runs do not agree on: its dotted name, and both values."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        # In the order of the description: what a user chose stands before what follows from it.
        return [
            found
            for each in [*mine, *sorted(theirs.keys() - mine.keys())]
            for found in differences(mine.get(each), theirs.get(each), f"{name}.{each}".lstrip("."))
        ]
    plain = list(mine) if isinstance(mine, tuple) else mine
    return [] if plain == theirs else [(name, mine, theirs)]
