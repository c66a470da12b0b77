"""Alarms: what is wrong with a generated set, each by the one measurement meant for it, with its limit, in words.

A distance beyond its floor is news; an alarm is a fault with a name. Limits are set so that two halves of one real set raise none:
`make proof-judge` plants every fault and counts both kinds of error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from galaxysd.evaluate import structure

FLUX = 0.03  # of the flux asked for
NOISE = 1.2  # times the noise of held-out rows: less comes along with brightness or colour
SIZE = 0.05  # of the R50 that goes with the R90 asked for
FLOORS = 4.0  # times the distance of two real halves
PRECISION = 0.6  # of two real halves'
RECALL = 0.5
AGREEMENT = 0.8  # of the judge's own rate
SHARE = 0.5  # of a class's share in held-out rows
FINEST = f"power_{structure.FREQUENCIES[-2]:g}-{structure.FREQUENCIES[-1]:g}"


@dataclass(frozen=True)
class Alarm:
    """A fault by name, the measurement that shows it, its value and the limit it is beyond."""

    fault: str
    metric: str
    value: float
    limit: float
    says: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def alarms(findings: dict[str, Any]) -> list[Alarm]:
    """Every alarm that the findings raise."""
    return [alarm for check in CHECKS for alarm in check(findings)]


def _not_galaxies(found: dict[str, Any]) -> Iterator[Alarm]:
    space = found["spaces"].get("scattering coefficients")
    if space and space["precision"]["value"] < (limit := PRECISION * space["precision"]["floor"]):
        value = space["precision"]["value"]
        says = f"only {value:.2f} of the rows look like any held-out galaxy (two real halves: {space['precision']['floor']:.2f})"
        yield Alarm("not galaxies", "precision in scattering coefficients", value, limit, says)


def _collapsed(found: dict[str, Any]) -> Iterator[Alarm]:
    for name, space in found["spaces"].items():
        recall, coverage = space["recall"], space["coverage"]
        if recall["value"] < (limit := RECALL * recall["floor"]) and coverage["value"] < RECALL * coverage["floor"]:
            says = (
                f"in {name} only {recall['value']:.2f} of held-out galaxies have generated ones about them "
                f"(two real halves: {recall['floor']:.2f})"
            )
            yield Alarm("collapsed", f"recall in {name}", recall["value"], limit, says)
            return


def _copies(found: dict[str, Any]) -> Iterator[Alarm]:
    copies = found["memorisation"]
    if copies and (copies["exceeds_holdout"] or copies["suspected_copies"]):
        share = copies["closer_than_holdout_1st_percentile"]
        says = (
            f"{copies['suspected_copies']} suspected copies of training galaxies; {share['rate']:.2f} of the rows are nearer to training "
            "than 99 % of held-out ones"
        )
        yield Alarm(
            "copies", "nearest training galaxy", share["rate"], copies["holdout_closer_than_its_1st_percentile"]["interval"][1], says
        )


def _brightness(found: dict[str, Any]) -> Iterator[Alarm]:
    bands = ((found["flux_ratio"] or {}).get("all") or {}).get("bands")
    if not bands:
        return
    name, band, slack = min(
        ((name, band, max(abs(end - 1) for end in band["floor_range"])) for name, band in bands.items()), key=lambda each: each[2]
    )  # the band that two real halves agree best in
    limit, ratio = max(FLUX, 2 * slack), band["ratio"]
    if abs(ratio - 1) > limit:
        edge = 1 + limit if ratio > 1 else 1 - limit
        yield Alarm("brightness", f"{name} flux at the requested magnitude", ratio, edge, f"{ratio:.3f} times the flux asked for")


def _size(found: dict[str, Any]) -> Iterator[Alarm]:
    size = found["size_ratio"]
    if size is None:
        yield from _distribution("size", "r50")(found)
        return
    limit = max(SIZE, 2 * max(abs(end - 1) for end in size["floor_range"]))
    if abs(size["ratio"] - 1) > limit:
        says = f"{size['ratio']:.3f} times the size asked for"
        yield Alarm("size", "R50 at the requested R90", size["ratio"], 1 + limit if size["ratio"] > 1 else 1 - limit, says)


def _distribution(fault: str, prefix: str) -> Callable[[dict[str, Any]], Iterator[Alarm]]:
    """An alarm on the farthest property whose name starts so."""

    def check(found: dict[str, Any]) -> Iterator[Alarm]:
        if far := _farthest(found, prefix):
            name, each = far
            yield _far(fault, name, each)

    return check


def _farthest(found: dict[str, Any], prefix: str) -> tuple[str, dict[str, Any]] | None:
    """The property, of those whose names start so, that is most floors off, if that is past the limit."""
    ranked = {
        name: each["wasserstein"]["ratio"] or 0.0
        for name, each in found["distributions"].items()
        if name.startswith(prefix) and each["wasserstein"]
    }
    name = max(ranked, key=lambda name: ranked[name], default=None)
    return None if name is None or ranked[name] <= FLOORS else (name, found["distributions"][name])


def _far(fault: str, name: str, each: dict[str, Any]) -> Alarm:
    ratio, mine, real = each["wasserstein"]["ratio"], each["median"]["generated"], each["median"]["held_out"]
    says = f"{name} lies {ratio:.1f} times as far off as two real halves (median {mine:.3g}, held-out {real:.3g})"
    return Alarm(fault, f"Wasserstein distance of {name} over its floor", ratio, FLOORS, says)


def _blurred(found: dict[str, Any]) -> Iterator[Alarm]:
    far = _farthest(found, FINEST)
    if far and far[1]["median"]["generated"] < far[1]["median"]["held_out"]:
        yield _far("blurred", *far)


def _noisy(found: dict[str, Any]) -> Iterator[Alarm]:
    far = _farthest(found, "noise")
    if far and far[1]["median"]["generated"] > NOISE * far[1]["median"]["held_out"]:
        yield _far("noisy", *far)


def _classes_missing(found: dict[str, Any]) -> Iterator[Alarm]:
    gone = {
        answer: each for answer, each in (found["shares"] or {}).items()
        if each["generated"]["interval"][1] < SHARE * each["held_out"]["interval"][0]
    }  # fmt: skip
    if gone:
        worst = max(gone.values(), key=lambda each: each["held_out"]["rate"])
        shares = (f"{answer} ({each['generated']['rate']:.3f}, held-out {each['held_out']['rate']:.3f})" for answer, each in gone.items())
        says = f"the judge finds too few of {', '.join(shares)}"
        yield Alarm(
            "classes missing", "share of each answer by the judge", worst["generated"]["rate"], SHARE * worst["held_out"]["rate"], says
        )


def _mislabelled(found: dict[str, Any]) -> Iterator[Alarm]:
    classes = found["classes"]
    if not classes or not classes["judge_on_held_out"]["rate"] or not classes["generated"]["rows"]:
        return
    limit = AGREEMENT * classes["judge_on_held_out"]["rate"]
    if classes["generated"]["interval"][1] < limit:
        value = classes["generated"]["rate"]
        says = (
            f"the requested class is found in {value:.2f} of requests, the judge's own rate is {classes['judge_on_held_out']['rate']:.2f}"
        )
        yield Alarm("mislabelled", "requested class found by the judge", value, limit, says)


CHECKS = (
    _not_galaxies,
    _collapsed,
    _copies,
    _brightness,
    _distribution("colour", "colour"),
    _size,
    _classes_missing,
    _blurred,
    _noisy,
    _mislabelled,
)
