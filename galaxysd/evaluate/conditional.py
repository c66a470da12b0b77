"""Whether a generated galaxy is what was asked for: classes found, vote fractions, and flux at the magnitude asked.

Every rate stands beside the judge's own on held-out galaxies, and beside what is left when the requests are shuffled.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.galaxies import NUMERIC, Frame
from galaxysd.data.schema import Schema
from galaxysd.evaluate import morphology
from galaxysd.evaluate.distances import LEAST, SPLITS, halves
from galaxysd.evaluate.features import Described
from galaxysd.evaluate.intervals import Rate, ratio

# The classes that a small model can learn in minutes, and the answer that defines each.
CLASSES = {
    "smooth round": "how-rounded_round",
    "cigar": "how-rounded_cigar",
    "edge-on": "disk-edge-on_yes",
    "irregular": "odd-feature_irregular",
}
LEAST_VOTERS = 5  # fewer make a fraction too rough to correlate with
MAGNITUDE = NUMERIC.index("magnitude")


def columns(schema: Schema) -> list[int]:
    """The columns of CLASSES; none in a schema that lacks one of them."""
    return [schema.index(answer) for answer in CLASSES.values()] if set(CLASSES.values()) <= set(schema.answers) else []


def agreement(generated: Described, held_out: Described, seed: int) -> dict[str, Any] | None:
    """How often the judge finds the requested class, per class: generated, held-out by own votes, their ratio, shuffled, chance."""
    schema, picked = generated.schema, columns(generated.schema)
    if generated.cond_counts is None or generated.fractions is None or held_out.fractions is None or not picked:
        return None
    asked = generated.schema.winners(generated.cond_counts)[:, picked]
    rows = asked.any(1).nonzero().flatten()
    if not len(rows):
        return None
    asked = asked[rows]
    seen = schema.winners(generated.fractions)[rows][:, picked]
    own = schema.winners(held_out.counts)[:, picked]
    judged = schema.winners(held_out.fractions)[:, picked]
    mixed = asked[seeds.permutation(seed, "evaluate-shuffle", len(asked))]
    classes: dict[str, dict[str, Any]] = {}
    for c, name in enumerate(CLASSES):
        if not asked[:, c].any():
            continue
        mine, judges = _rate(seen[:, c], asked[:, c]), _rate(judged[:, c], own[:, c])
        classes[name] = {
            "answer": CLASSES[name],
            "generated": mine.to_json(),
            "judge_on_held_out": judges.to_json(),
            "ratio": ratio(mine, judges),
            "shuffled": _rate(seen[:, c], mixed[:, c]).to_json(),
            "chance": Rate(int(seen[:, c].sum()), len(seen)).to_json(),
        }
    both = [each["ratio"]["ratio"] for each in classes.values() if each["ratio"]["ratio"] is not None]
    return {
        "rows": len(rows),
        "classes": classes,
        "generated": _rate(seen, asked).to_json(),
        "judge_on_held_out": _rate(judged, own).to_json(),
        "mean_ratio": sum(both) / len(both) if both else None,
        "shuffled": _rate(seen, mixed).to_json(),
        # What a permutation gives on average: each class found as often as it is found in all requested rows.
        "chance": float((asked.double().mean(0) * seen.double().mean(0)).sum() / asked.double().mean(0).sum()),
    }


def _rate(hits: Tensor, among: Tensor) -> Rate:
    return Rate(int((hits & among).sum()), int(among.sum()))


def fractions(generated: Described, held_out: Described) -> dict[str, Any] | None:
    """Correlation of requested and measured conditional fractions, per answer, beside the same on held-out votes."""
    if generated.cond_counts is None or generated.fractions is None or held_out.fractions is None:
        return None
    schema = generated.schema
    table = {}
    for a, answer in enumerate(schema.answers):
        mine = _agree(generated.cond_counts, generated.fractions, a, schema)
        if mine["rows"] >= LEAST:
            table[answer] = {"generated": mine, "held_out": _agree(held_out.counts, held_out.fractions, a, schema)}
    return table


def _agree(counts: Tensor, measured: Tensor, a: int, schema: Schema) -> dict[str, Any]:
    known = schema.voters(counts)[:, schema.owner[a]] >= LEAST_VOTERS
    asked, seen = schema.fractions(counts)[known, a].double(), measured[known, a].double()
    rows = int(known.sum())
    if rows < LEAST:
        return {"rows": rows, "correlation": None, "mean_absolute_error": None, "requested": None, "measured": None}
    varied = float(asked.std()) > 1e-6 and float(seen.std()) > 1e-6
    return {
        "rows": rows,
        "correlation": float(torch.corrcoef(torch.stack((asked, seen)))[0, 1]) if varied else None,
        "mean_absolute_error": float((asked - seen).abs().mean()),
        "requested": float(asked.mean()),
        "measured": float(seen.mean()),
    }


def same_mix(generated: Described, held_out: Described, seed: int) -> Tensor | None:
    """Held-out rows with the mix of classes that was asked for; None when the request is no mix of CLASSES or they lack one of it.

    Fifty galaxies of each class are not distributed as a survey is: without this the request would be counted against the model.
    Requests like the rows of a table carry magnitudes, and are left alone.
    """
    picked = columns(generated.schema)
    if generated.cond_counts is None or not picked:
        return None
    if generated.cond_numeric is not None and generated.cond_numeric[:, MAGNITUDE].isfinite().any():
        return None
    asked = generated.schema.winners(generated.cond_counts)[:, picked]
    asked = asked & (asked.sum(1, keepdim=True) == 1)
    natural = held_out.schema.winners(held_out.counts)[:, picked]
    if asked.any(1).double().mean() < 0.9:
        return None
    natural = natural & (natural.sum(1, keepdim=True) == 1)
    share = asked.double().mean(0)
    share = share / share.sum()
    there = natural.sum(0).double()
    whole = float((there / share)[share > 0].min())
    chosen = []
    for c in range(len(picked)):
        rows = natural[:, c].nonzero().flatten()
        chosen.append(rows[seeds.permutation(seed, "evaluate-mix", len(rows), c)[: int(whole * float(share[c]))]] if len(rows) else rows)
    every = torch.cat(chosen).sort().values
    return every if len(every) >= 2 * LEAST else None


def flux_ratio(generated: Described, held_out: Described, seed: int, bins: int = 4) -> dict[str, Any] | None:
    """Median flux of generated over held-out galaxies at the magnitude asked for, per band and bin of it, beside two real halves.

    Flux is first divided by what the magnitude says, so that the slope inside a bin does not enter. None on rgb sets and where no
    magnitude was asked for.
    """
    frame = generated.frame
    if frame.kind != "flux" or generated.cond_numeric is None:
        return None
    asked, real = generated.cond_numeric[:, MAGNITUDE].double(), held_out.numeric[:, MAGNITUDE].double()
    if int(asked.isfinite().sum()) < LEAST or int(real.isfinite().sum()) < 2 * LEAST:
        return None
    edges = real[real.isfinite()].quantile(torch.linspace(0, 1, bins + 1, dtype=torch.float64)).tolist()

    def entry(low: float, high: float) -> dict[str, Any]:
        mine, theirs = (((m >= low) & ((m < high) | (m == high) & (high == edges[-1]))).nonzero().flatten() for m in (asked, real))
        found: dict[str, Any] = {"magnitude": [low, high], "generated": len(mine), "held_out": len(theirs)}
        if min(len(mine), len(theirs) // 2) >= LEAST:
            found["bands"] = {band: _band(generated, held_out, band, frame, mine, theirs, (asked, real), seed) for band in frame.bands}
        return found

    every, whole = [entry(low, high) for low, high in itertools.pairwise(edges)], entry(edges[0], edges[-1])
    rows = int(asked.isfinite().sum())
    return {"bins": every, "all": whole, "outside_bins": rows - whole["generated"], "rows": rows}


def _band(
    generated: Described,
    held_out: Described,
    band: str,
    frame: Frame,
    mine: Tensor,
    theirs: Tensor,
    asked: tuple[Tensor, Tensor],
    seed: int,
) -> dict[str, float | list[float]]:
    zero = frame.zero_points[morphology.reference_band(frame)]

    def relative(of: Described, rows: Tensor, magnitude: Tensor) -> Tensor:
        return of.properties[f"flux_{band}"][rows].double() * 10 ** (0.4 * (magnitude[rows] - zero))

    new, real = relative(generated, mine, asked[0]), relative(held_out, theirs, asked[1])
    spread = []
    for split in range(SPLITS):
        _, one, other = halves(len(new), len(real), seed, split)
        spread.append(real[one].nanmedian() / real[other].nanmedian())
    ends = torch.stack(spread).quantile(torch.tensor([0.5, 0.025, 0.975], dtype=torch.float64)).tolist()
    return {"ratio": float(new.nanmedian() / real.nanmedian()), "floor": ends[0], "floor_range": ends[1:]}
