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

# The classes a request is held to, and the answer that defines each. They overlap: a barred spiral is two of them.
CLASSES = {
    "smooth round": "how-rounded_round",
    "cigar": "how-rounded_cigar",
    "edge-on": "disk-edge-on_yes",
    "face-on spiral": "has-spiral-arms_yes",
    "barred": "bar_yes",
    "ring": "odd-feature_ring",
    "merger": "odd-feature_merger",
    "irregular": "odd-feature_irregular",
}
# Reported in the same way, and in no mean: small pictures hold little of them, and judges count arms badly.
REPORTED = {
    "dust lane": "odd-feature_dust-lane",
    "1 arm": "spiral-arm-count_1",
    "2 arms": "spiral-arm-count_2",
    "3 arms": "spiral-arm-count_3",
    "4 arms": "spiral-arm-count_4",
    "more than 4 arms": "spiral-arm-count_more-than-4",
}
OFTEN = 0.05  # share of held-out rows from which an answer's absence says something
LEAST_VOTERS = 5  # fewer make a fraction too rough to correlate with
MAGNITUDE, R90 = NUMERIC.index("magnitude"), NUMERIC.index("r90_pixels")


def columns(schema: Schema) -> dict[str, int]:
    """The column of each class that a schema has an answer for."""
    return {name: schema.index(answer) for name, answer in (CLASSES | REPORTED).items() if answer in schema.answers}


def agreement(generated: Described, held_out: Described, seed: int) -> dict[str, Any] | None:
    """How often the judge finds the requested class, per class: generated, held-out by own votes, their ratio, shuffled, chance.

    A galaxy counts for each class that was asked of it; a request as a whole is found when all its classes are.
    """
    schema, picked = generated.schema, columns(generated.schema)
    if generated.cond_counts is None or generated.fractions is None or held_out.fractions is None or not picked:
        return None
    places = list(picked.values())
    asked = schema.winners(generated.cond_counts)[:, places]
    rows = asked.any(1).nonzero().flatten()
    if not len(rows):
        return None
    asked = asked[rows]
    seen = schema.winners(generated.fractions)[rows][:, places]
    own = schema.winners(held_out.counts)[:, places]
    judged = schema.winners(held_out.fractions)[:, places]
    mixed = asked[seeds.permutation(seed, "evaluate-shuffle", len(asked))]
    classes: dict[str, dict[str, Any]] = {}
    for c, (name, place) in enumerate(picked.items()):
        if not asked[:, c].any():
            continue
        mine, judges = _rate(seen[:, c], asked[:, c]), _rate(judged[:, c], own[:, c])
        classes[name] = {
            "answer": schema.answers[place],
            "counted": name in CLASSES,
            "generated": mine.to_json(),
            "judge_on_held_out": judges.to_json(),
            "ratio": ratio(mine, judges),
            "shuffled": _rate(seen[:, c], mixed[:, c]).to_json(),
            "chance": Rate(int(seen[:, c].sum()), len(seen)).to_json(),
        }
    counted = [name for name in classes if name in CLASSES] or list(classes)
    both = [classes[name]["ratio"]["ratio"] for name in counted if classes[name]["ratio"]["ratio"] is not None]
    of = [list(picked).index(name) for name in counted]
    asked, mixed, seen, own, judged = (each[:, of] for each in (asked, mixed, seen, own, judged))
    return {
        "rows": int(asked.any(1).sum()),
        "classes": classes,
        "generated": _whole(seen, asked).to_json(),
        "judge_on_held_out": _whole(judged, own).to_json(),
        "mean_ratio": sum(both) / len(both) if both else None,
        "shuffled": _whole(seen, mixed).to_json(),
        "chance": _chance(seen, asked),
    }


def _whole(found: Tensor, asked: Tensor) -> Rate:
    """Rows [N, classes] in which every class asked for is found, among those that ask for any."""
    among = asked.any(1)
    return Rate(int(((found | ~asked).all(1) & among).sum()), int(among.sum()))


def _chance(seen: Tensor, asked: Tensor) -> float:
    """What a permutation of the requests gives on average: each met as often as all rows that ask for something meet it."""
    rows = asked.any(1)
    requests, times = asked[rows].unique(dim=0, return_counts=True)
    met = torch.stack([(seen[rows] | ~request).all(1).double().mean() for request in requests])
    return float((met * times).sum() / times.sum())


def _rate(hits: Tensor, among: Tensor) -> Rate:
    return Rate(int((hits & among).sum()), int(among.sum()))


def fractions(generated: Described, held_out: Described) -> dict[str, Any] | None:
    """Correlation of requested and measured conditional fractions, per answer, beside the same on held-out votes.

    `share` is the one over the other: how much is reached of what the judge and the votes' noise allow. `vote_ceiling` is the
    correlation that held-out votes would have with a judge that knew what all volunteers think.
    """
    if generated.cond_counts is None or generated.fractions is None or held_out.fractions is None:
        return None
    schema = generated.schema
    table = {}
    for a, answer in enumerate(schema.answers):
        mine = _agree(generated.cond_counts, generated.fractions, a, schema)
        if mine["rows"] >= LEAST:
            real = _agree(held_out.counts, held_out.fractions, a, schema)
            known = mine["correlation"] is not None and real["correlation"] is not None and real["correlation"] > 0
            share = mine["correlation"] / real["correlation"] if known else None
            table[answer] = {"generated": mine, "held_out": real, "share": share, "vote_ceiling": vote_ceiling(held_out.counts, a, schema)}
    return table


def requested(generated: Described) -> list[str | None]:
    """The class of CLASSES that each generated row was asked for, the first where there are several; None where there is none."""
    if generated.cond_counts is None:
        return []
    picked = {name: place for name, place in columns(generated.schema).items() if name in CLASSES}
    asked = generated.schema.winners(generated.cond_counts)[:, list(picked.values())]
    return [next((name for name, each in zip(picked, row, strict=True) if each), None) for row in asked.tolist()]


def shares(generated: Described, held_out: Described) -> dict[str, Any] | None:
    """The share of rows of which the judge gives each answer, generated beside held-out, for the answers that the latter often have."""
    if generated.fractions is None or held_out.fractions is None:
        return None
    mine, theirs = generated.schema.winners(generated.fractions), held_out.schema.winners(held_out.fractions)
    table = {}
    for a, answer in enumerate(generated.schema.answers):
        real = Rate(int(theirs[:, a].sum()), len(theirs))
        if real.hits >= OFTEN * real.rows:
            table[answer] = {"generated": Rate(int(mine[:, a].sum()), len(mine)).to_json(), "held_out": real.to_json()}
    return table


def vote_ceiling(counts: Tensor, a: int, schema: Schema) -> float | None:
    """The correlation of fractions of `counts` [N, A] votes with the fractions they are drawn from; None for few rows or equal ones.

    What two halves of the volunteers agree in, without dividing them: of the variance of the fractions, the part that is not binomial.
    """
    voters = schema.voters(counts)[:, schema.owner[a]].double()
    known = voters >= LEAST_VOTERS
    if int(known.sum()) < LEAST:
        return None
    n, given = voters[known], (counts[known, a].double() / voters[known])
    spread = float(given.var())
    noise = float((given * (1 - given) / (n - 1)).mean())
    return (max(0.0, spread - noise) / spread) ** 0.5 if spread > 1e-9 else None


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
    """Held-out rows with the mix of classes that was asked for; None when the request is no mix of classes or they lack one of it.

    Fifty galaxies of each class are not distributed as a survey is: without this the request would be counted against the model.
    A request fits a held-out galaxy of each class it names and of none it rules out; what it leaves open, it leaves to the sky.
    Requests like the rows of a table carry magnitudes, and are left alone.
    """
    schema, picked = generated.schema, list(columns(generated.schema).values())
    if generated.cond_counts is None or not picked:
        return None
    if generated.cond_numeric is not None and generated.cond_numeric[:, MAGNITUDE].isfinite().any():
        return None
    wanted = schema.winners(generated.cond_counts)[:, picked]
    ruled_out = (schema.voters(generated.cond_counts) > 0)[:, schema.owner[picked]] & ~wanted
    some = wanted.any(1)
    if some.double().mean() < 0.9:
        return None
    requests, times = torch.stack((wanted, ruled_out), 1)[some].unique(dim=0, return_counts=True)
    natural = held_out.schema.winners(held_out.counts)[:, picked]
    fitting = []
    for k, (named, excluded) in enumerate(requests):
        rows = ((natural | ~named) & ~(natural & excluded)).all(1).nonzero().flatten()
        fitting.append(rows[seeds.permutation(seed, "evaluate-mix", len(rows), k)] if len(rows) else rows)
    low, high = 0, len(natural)
    while low < high:  # the largest mix that can be dealt
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _dealt(fitting, times.tolist(), middle) is not None else (low, middle - 1)
    every = _dealt(fitting, times.tolist(), low)
    return every if every is not None and len(every) >= 2 * LEAST else None


def _dealt(fitting: list[Tensor], shares: list[int], total: int) -> Tensor | None:
    """About `total` rows in these shares, none twice, each from the rows that fit, the scarcest first; None when there are too few."""
    taken: set[int] = set()
    for k in sorted(range(len(shares)), key=lambda k: len(fitting[k]) / shares[k]):
        free = [row for row in fitting[k].tolist() if row not in taken]
        wanted = total * shares[k] // sum(shares)
        if len(free) < wanted:
            return None
        taken.update(free[:wanted])
    return torch.tensor(sorted(taken), dtype=torch.int64)


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


def size_ratio(generated: Described, held_out: Described, seed: int) -> dict[str, Any] | None:
    """Median R50 of generated over held-out galaxies at the R90 asked for, beside two real halves; None where none was asked for.

    Measured R50 is first divided by the R90 that was asked for. The sky moves a measured R90 more than a galaxy's shape moves their ratio.
    """
    if generated.cond_numeric is None:
        return None
    mine, theirs = (
        (of.properties["r50"] / numeric[:, R90]).double()
        for of, numeric in ((generated, generated.cond_numeric), (held_out, held_out.numeric))
    )
    mine, theirs = (ratio[ratio.isfinite()] for ratio in (mine, theirs))
    if min(len(mine), len(theirs) // 2) < LEAST:
        return None
    return {**_of_medians(mine, theirs, seed), "generated": len(mine), "held_out": len(theirs)}


def _of_medians(new: Tensor, real: Tensor, seed: int) -> dict[str, float | list[float]]:
    """The ratio of both medians, and that of two real halves as large."""
    spread = []
    for split in range(SPLITS):
        _, one, other = halves(len(new), len(real), seed, split)
        spread.append(real[one].nanmedian() / real[other].nanmedian())
    ends = torch.stack(spread).quantile(torch.tensor([0.5, 0.025, 0.975], dtype=torch.float64)).tolist()
    return {"ratio": float(new.nanmedian() / real.nanmedian()), "floor": ends[0], "floor_range": ends[1:]}


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

    return _of_medians(relative(generated, mine, asked[0]), relative(held_out, theirs, asked[1]), seed)
