"""What the page knows of each galaxy: votes, the answer that leads each question, numbers, and how to draw the galaxy again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from galaxysd.data import conditions
from galaxysd.data.galaxies import NUMERIC, Frame, Galaxies
from galaxysd.data.schema import Schema
from galaxysd.errors import BadInput

DIGITS = 4  # of a number on the page
TEXT_LIMIT = 200  # characters of a further column


def kind(galaxies: Galaxies, provenance: Mapping[str, Any]) -> str:
    """Whether a set was "generated", "simulated" or "observed", by its provenance."""
    if provenance.get("is_synthetic") is False:
        return "observed"
    return "simulated" if galaxies.cond_counts is None and galaxies.cond_numeric is None else "generated"


def describe(galaxies: Galaxies, frame: Frame, measured: Tensor | None, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """One panel of the page as plain JSON: `words` says what its votes are, `rows` holds a record for each galaxy."""
    labels = frame.labels
    if measured is not None and measured.shape != galaxies.counts.shape:
        raise BadInput(f"measured votes: shape {list(measured.shape)}, {list(galaxies.counts.shape)} expected (galaxies, answers)")
    generated = kind(galaxies, provenance) == "generated"
    known = conditions.asked(galaxies) if generated else conditions.of(galaxies)
    voters, fractions, lead = labels.voters(known.counts), labels.fractions(known.counts), labels.leading(known.counts)
    found = None if measured is None else labels.leading(measured)
    seed = provenance.get("seed")
    rows = []
    for row, name in enumerate(galaxies.ids):
        extra = {key: column[row] for key, column in galaxies.extra.items()}
        record: dict[str, Any] = {
            "id": name,
            "index": int(galaxies.index[row]),
            "seed": _plain(extra.pop("seed", seed)),
            "voters": _numbers(voters[row]),
            "votes": _numbers(fractions[row]),
            "lead": lead[row].tolist(),
            "numbers": _numbers(known.numeric[row]),
            "extra": {key: _plain(value) for key, value in extra.items() if value is not None},
        }
        if measured is not None and found is not None and bool(measured[row].isfinite().any()):
            record |= {"measured": _numbers(measured[row]), "found": found[row].tolist()}
        rows.append(record)
    return {"words": "requested" if generated else "volunteers", "measured": measured is not None, "rows": rows}


def tree(labels: Schema) -> list[dict[str, Any]]:
    """The questions as the page needs them."""

    def words(name: str) -> str:
        return name.replace("-", " ")

    return [{"name": words(each.name), "text": each.text, "answers": list(map(words, each.answers))} for each in labels.questions]


def number_names() -> list[str]:
    """The numeric conditions in words."""
    words = {"r90_pixels": "R90 (px)", "psf_fwhm_pixels": "PSF FWHM (px)", "sky_noise": "sky noise"}
    return [words.get(name, name) for name in NUMERIC]


def recipe(galaxies: Galaxies, frame: Frame, provenance: Mapping[str, Any]) -> str:
    """The lines that make one galaxy of a set again, with INDEX where its index goes; empty where the provenance does not tell."""
    found, seed = kind(galaxies, provenance), provenance.get("seed")
    if found == "simulated" and type(seed) is int and "simulated" in provenance:
        preset = provenance["simulated"]
        return f"galaxysd simulate --preset {preset} --size {frame.size} --seed {seed} --first INDEX --n 1 --out ONE"
    if found != "generated" or type(seed) is not int:
        return ""
    names = ("sampler", "steps", "guidance", "interval")
    settings = [f"{name}={_literal(provenance[name])}" for name in names if name in provenance]
    guide = f'    guide="GUIDE",  # the model of SHA-256 {str(provenance["guide_sha256"])[:12]}\n' if "guide_sha256" in provenance else ""
    return (
        "import galaxysd\n"
        "from galaxysd.data import conditions, readers\n"
        'rows = readers.open_set("SET").read()\n'
        "pick = (rows.index == INDEX).nonzero()[:, 0]\n"
        f'galaxysd.load("MODEL").sample(  # the model of SHA-256 {str(provenance.get("model_sha256", "unknown"))[:12]}\n'
        f"    conditions.asked(rows).rows(pick), index=rows.index[pick],\n"
        f"{guide}"
        f"    {', '.join([f'seed={seed}', *settings])})"
    )


def _literal(value: Any) -> str:
    return repr(tuple(value)) if isinstance(value, list) else repr(value)


def _numbers(values: Tensor) -> list[float | None]:
    """Numbers short enough to embed; what is not known is null."""
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    text = str(value)
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "…"
