"""Whether a model was trained on given galaxies: told from what every model says of its training data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

IDS = "trained_on.ids"  # in a run folder: the hashed ids of the set it was trained on
_SIMULATED = re.compile(r"sim-(.+)-(\d+)-(\d+)")


def seen(trained_on: Mapping[str, Any], ids: Iterable[str], folder: Path | None) -> tuple[list[str], str | None]:
    """Those of `ids` that a model was trained on, and why that is not known of all of them (None when it is).

    `trained_on` is the model's own word, `folder` where its run lies: a simulated source is known by population, seed and number, a set
    by the hashed ids that the run keeps.
    """
    names = list(ids)
    if "mixed" in trained_on:
        found, reasons = [], []
        for each in trained_on["mixed"]:
            some, reason = seen(each, names, folder)
            found += some
            reasons += [reason] if reason else []
        return sorted(set(found)), reasons[0] if reasons else None
    if "simulated" in trained_on:
        return [name for name in names if _of(trained_on, name)], None
    if "ids" not in trained_on:
        return [], f"the model says of its training data only {str(dict(trained_on))[:80]}"
    path = folder / IDS if folder is not None else None
    if path is None or not path.is_file():
        return [], f"the ids that the model was trained on ({IDS}) are not beside it"
    text = path.read_text()
    if hashlib.sha256(text.encode()).hexdigest() != trained_on["ids"]:
        return [], f"{path}: not the ids that the model was trained on; their digests differ"
    known = set(text.split("\n"))
    return [name for name in names if hashlib.sha256(name.encode()).hexdigest()[:16] in known], None


def _of(simulated: Mapping[str, Any], name: str) -> bool:
    parts = _SIMULATED.fullmatch(name)
    if parts is None or parts[1] != simulated["simulated"] or int(parts[2]) != simulated["seed"]:
        return False
    return bool(simulated["first"] <= int(parts[3]) < simulated["first"] + simulated["n"])
