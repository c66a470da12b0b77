"""The report folder: report.json (everything), report.md (to read), and pictures where matplotlib is installed.

Every number stands beside its floor and the number of rows it is over; what was not measured is listed with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from galaxysd import files
from galaxysd.evaluate import page, pictures
from galaxysd.evaluate.features import Described
from galaxysd.evaluate.memorisation import Nearest


@dataclass
class Evaluation:
    """The findings as plain JSON values, and the rows the pictures are drawn from."""

    findings: dict[str, Any]
    generated: Described
    held_out: Described  # the rows that distributions are compared with
    nearest: tuple[Nearest, Nearest] | None = None  # of generated and of held-out rows
    pictures: list[str] = field(default_factory=list)


def verdict(findings: dict[str, Any]) -> list[str]:
    """What the numbers say, in sentences."""
    rows = findings["rows"]
    kind = findings["frame"]["kind"]
    lines = [f"{rows['generated']} generated galaxies against {rows['held_out']} held-out ones ({kind}, {findings['frame']['size']} px)."]
    if kind == "rgb":
        lines.append(
            "Display colour is relative only: no flux and no colour in magnitudes is measured; sizes are of the stretched picture."
        )
    lines = verdict_lines(findings["alarms"], findings["not_measured"]) + lines
    if findings["classes"]:
        lines.append(_classes(findings["classes"]))
    if findings["flux_ratio"]:
        lines += _flux(findings["flux_ratio"])
    if findings["size_ratio"]:
        size = findings["size_ratio"]
        low, high = size["floor_range"]
        lines.append(
            f"Median R50 at the requested R90: {size['ratio']:.3f} of held-out galaxies' (two real halves: {low:.3f} to {high:.3f})."
        )
    lines.append(_properties(findings["distributions"]))
    for name, space in findings["spaces"].items():
        cover = space["coverage"]
        word = "below" if cover["beyond_floor"] else "within"
        lines.append(
            f"Coverage in {name}: {cover['value']:.2f}, two real halves {cover['floor']:.2f} "
            f"[{cover['floor_range'][0]:.2f}, {cover['floor_range'][1]:.2f}]: {word} the floor (N {cover['rows']} a side)."
        )
    if findings["detector"]:
        lines.append(_told(findings["detector"]))
    if findings["memorisation"]:
        lines.append(_copies(findings["memorisation"]))
    if findings["calibration"] and findings["calibration"]["expected_calibration_error"] is not None:
        error = findings["calibration"]["expected_calibration_error"]
        lines.append(f"The judge's fractions are off by {error:.3f} of held-out votes on average (expected calibration error).")
    lines.append(f"{findings['pretrained_encoder'].capitalize()}.")
    lines += [f"Not measured: {what}: {why}." for what, why in findings["not_measured"].items()]
    return lines


def verdict_lines(alarms: list[dict[str, Any]], missing: dict[str, str]) -> list[str]:
    """The verdict in one line, and one line for each alarm."""
    unknown = f" Of what was to be measured {len(missing)} could not be: see below." if missing else ""
    if not alarms:
        return [f"PASSES: no alarm.{unknown}"]
    word = f"FAILS: {', '.join(dict.fromkeys(alarm['fault'] for alarm in alarms))}.{unknown}"
    return [word] + [
        f"ALARM, {alarm['fault']}: {alarm['says']} ({alarm['metric']} {alarm['value']:.3g}, limit {alarm['limit']:.3g})."
        for alarm in alarms
    ]


def _told(found: dict[str, Any]) -> str:
    mine, halves = found["accuracy"], found["two_real_halves"]
    planted = ", ".join(f"{name} {rate['rate']:.2f}" for name, rate in found["planted"].items())
    if not found["proven"]:
        return f"Whether it can be told is not known: the detector misses planted faults ({planted})."
    return (
        f"A detector tells generated from held-out galaxies in {_rate(mine)} (two real halves {halves['rate']:.2f}, 0.50 is chance); "
        f"it tells planted faults in {planted}."
    )


def _classes(found: dict[str, Any]) -> str:
    mine, judge, ratio = found["generated"], found["judge_on_held_out"], found["mean_ratio"]
    text = f"Requested class found in {mine['rate']:.2f} of {mine['rows']} requests"
    if judge["rate"] is not None:
        text += f"; the judge's own rate on held-out galaxies is {judge['rate']:.2f} of {judge['rows']}"
    if ratio is not None:
        text += f"; mean ratio over {_counted(found)} classes {ratio:.2f}"
    text += f". Requests shuffled: {found['shuffled']['rate']:.2f}, chance {found['chance']:.2f}."
    return text if len(found["classes"]) > 1 else text + " (One class was asked for: shuffling cannot change anything.)"


def _counted(found: dict[str, Any]) -> int:
    return sum(each["counted"] and each["ratio"]["ratio"] is not None for each in found["classes"].values())


def _flux(found: dict[str, Any]) -> list[str]:
    bands = [band for row in found["bins"] for band in row.get("bands", {}).values()]
    if not bands:
        return ["Flux at the requested magnitude: too few rows in every bin."]
    outside = sum(not band["floor_range"][0] <= band["ratio"] <= band["floor_range"][1] for band in bands)
    ratios = [band["ratio"] for band in bands]
    floors = [end for band in bands for end in band["floor_range"]]
    return [
        f"Median flux ratio at the requested magnitude: {min(ratios):.3f} to {max(ratios):.3f} over {len(bands)} bands and bins "
        f"(two real halves: {min(floors):.3f} to {max(floors):.3f}); {outside} of them outside their floor."
    ]


def _properties(found: dict[str, Any]) -> str:
    compared = {name: each["wasserstein"] for name, each in found.items() if each["wasserstein"]}
    if not compared:
        return "Distributions: too few rows to compare."
    beyond = [name for name, each in compared.items() if each["beyond_floor"]]
    text = f"Distributions: {len(beyond)} of {len(compared)} properties lie beyond what two halves of the held-out set differ by"
    ranked = [name for name in compared if compared[name]["ratio"] is not None]
    if ranked:
        worst = max(ranked, key=lambda name: compared[name]["ratio"])
        text += f"; farthest is {worst} at {compared[worst]['ratio']:.1f} times the floor (N {compared[worst]['rows']} a side)"
    return text + "."


def _copies(found: dict[str, Any]) -> str:
    mine, real, share = found["generated"], found["held_out"], found["closer_than_holdout_1st_percentile"]
    text = (
        f"Nearest training galaxy: median {mine['median']:.3f} generated, {real['median']:.3f} held-out; 1st percentile "
        f"{mine['percentile_1']:.3f} and {real['percentile_1']:.3f}; {share['rate']:.3f} of {share['rows']} generated rows "
        f"are nearer than the held-out 1st percentile; {found['suspected_copies']} suspected copies: "
    )
    if not found["exceeds_holdout"]:
        return text + "no more near copies than the holdout."
    # Blurred or noiseless pictures are nearer to every galaxy, training or not.
    smooth = " (with no single suspect, smoother or less varied pictures can be the cause)" if not found["suspected_copies"] else ""
    return text + f"MORE near copies than the holdout{smooth}."


def write(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Writes the report into `folder`, new or empty; gives what was written, report.json last."""
    evaluation.pictures = pictures.draw(folder, evaluation)
    if not evaluation.pictures:
        evaluation.findings["not_measured"]["pictures"] = "matplotlib is not installed (pip install 'galaxysd[eval]')"
        evaluation.findings["verdict"] = verdict(evaluation.findings)
    text = markdown(evaluation)
    drawn = {name: (folder / name).read_bytes() for name in evaluation.pictures if name.endswith(".png")}
    files.commit(folder / "report.md", lambda file: file.write(text.encode()))
    files.commit(folder / "report.html", lambda file: file.write(page.html(text, drawn).encode()))
    rows = [name for name in (_write_nearest(folder, evaluation),) if name]
    files.commit_json(folder / "report.json", evaluation.findings)
    return [folder / name for name in (*evaluation.pictures, *rows, "report.md", "report.html", "report.json")]


def _write_nearest(folder: Path, evaluation: Evaluation) -> str | None:
    """The nearest training galaxy of every generated row, as a table; None where none was looked for."""
    if evaluation.nearest is None:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    near = evaluation.nearest[0]
    columns = {"id": evaluation.generated.ids, "nearest_train_id": near.ids, "distance": near.distance.numpy()}
    if near.relative is not None:
        columns["relative_to_next_nearest"] = near.relative.numpy()
    files.commit(folder / "nearest.parquet", lambda file: pq.write_table(pa.table(columns), file))
    return "nearest.parquet"


def markdown(evaluation: Evaluation) -> str:
    """The report to read."""
    found = evaluation.findings
    train = f", trained on {found['train']}" if found["train"] else ""
    parts = [f"# {found['set']} against {found['against']}{train}", ""]
    parts += [f"- {line}" for line in found["verdict"]]
    parts += ["", f"Seed {found['seed']}. Ranges are 95 % ranges over seeded splits; intervals of rates are Wilson's 95 %."]
    parts += [found["compared_with"], ""]
    if "command" in found:
        parts += [f"Made by `{found['command']}` (galaxysd {found['galaxysd']}).", ""]
    if found["classes"]:
        parts += ["## Requested classes", "", *_class_table(found["classes"]), ""]
    if found["fractions"]:
        parts += ["## Requested and measured vote fractions", "", *_fraction_table(found["fractions"]), ""]
    if found["flux_ratio"]:
        parts += ["## Flux at the requested magnitude", "", *_flux_table(found["flux_ratio"]), ""]
    parts += ["## Distributions (Wasserstein-1)", "", *_property_table(found["distributions"]), ""]
    if found["detector"]:
        parts += ["## Can it be told", "", *_detector_table(found["detector"]), ""]
    if found["statmorph"]:
        parts += ["## Measured by photutils and statmorph", "", *_statmorph_table(found["statmorph"]), ""]
    parts += ["## Coverage, density, precision, recall, Frechet and kernel distance", "", *_space_table(found["spaces"]), ""]
    if found["memorisation"]:
        parts += ["## Nearest training galaxies", "", *_nearest_table(found["memorisation"]), ""]
    parts += [f"![{name.removesuffix('.png')}]({name})\n" for name in evaluation.pictures if name.endswith(".png")]
    return "\n".join(parts)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A markdown table, as lines."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def _rate(value: dict[str, Any]) -> str:
    if value["rate"] is None:
        return "no rows"
    return f"{value['rate']:.2f} [{value['interval'][0]:.2f}, {value['interval'][1]:.2f}], N {value['rows']}"


def _class_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, each in found["classes"].items():
        ratio = each["ratio"]
        span = f"{number(ratio['ratio'], 2)} [{number(ratio['low'], 2)}, {number(ratio['high'], 2)}]"
        shown = name if each["counted"] else f"{name} (in no mean)"
        beside = [_rate(each[key]) for key in ("shuffled", "chance")]
        rows.append([shown, _rate(each["generated"]), _rate(each["judge_on_held_out"]), span, *beside])
    return table(["class", "found", "judge on held-out", "ratio", "requests shuffled", "chance"], rows)


def _fraction_table(found: dict[str, Any]) -> list[str]:
    def cells(each: dict[str, Any]) -> list[str]:
        return [number(each["correlation"], 2), number(each["mean_absolute_error"], 2), str(each["rows"])]

    head = ["answer", "correlation", "mean error", "N", "held-out: correlation", "mean error", "N", "share of held-out's", "votes allow"]
    rows = [
        [answer, *cells(each["generated"]), *cells(each["held_out"]), number(each["share"], 2), number(each["vote_ceiling"], 2)]
        for answer, each in found.items()
    ]
    return table(head, rows)


def _flux_table(found: dict[str, Any]) -> list[str]:
    names = next((list(row["bands"]) for row in found["bins"] if "bands" in row), [])
    rows = []
    for row in (*found["bins"], found["all"]):
        cells = [f"{row['magnitude'][0]:.2f} to {row['magnitude'][1]:.2f}", str(row["generated"]), str(row["held_out"])]
        for band in names:
            each = row.get("bands", {}).get(band)
            cells.append(
                "too few rows"
                if each is None
                else f"{each['ratio']:.3f} (halves {each['floor_range'][0]:.3f} to {each['floor_range'][1]:.3f})"
            )
        rows.append(cells)
    return table(["magnitude", "N generated", "N held-out", *names], rows)


def _beside(each: dict[str, Any] | None) -> list[str]:
    if each is None:
        return ["too few rows", "–", "–", "–"]
    span = f"{number(each['floor'])} [{number(each['floor_range'][0])}, {number(each['floor_range'][1])}]"
    mark = " beyond" if each["beyond_floor"] else ""
    return [number(each["value"]), span, number(each["ratio"], 2) + mark, str(each["rows"])]


def _property_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, each in found.items():
        medians = [number(each["median"]["generated"]), number(each["median"]["held_out"])]
        missing = f"{each['not_measured']['generated']} and {each['not_measured']['held_out']}"
        rows.append([name, each["unit"] or "–", *medians, *_beside(each["wasserstein"]), missing])
    head = [
        "property",
        "unit",
        "median generated",
        "median held-out",
        "distance",
        "two real halves",
        "ratio",
        "N a side",
        "rows not measured",
    ]
    return table(head, rows)


def _space_table(found: dict[str, Any]) -> list[str]:
    rows = [
        [f"{what}, {name}", *_beside(space[what]), number(space[what]["collapsed"]) if space[what] else "–"]
        for name, space in found.items()
        for what in ("coverage", "density", "precision", "recall", "frechet", "kernel")
        if what in space
    ]
    return table(["", "value", "two real halves", "ratio", "N a side", "collapsed generator"], rows)


def _detector_table(found: dict[str, Any]) -> list[str]:
    named = {"generated": found["accuracy"], "two real halves": found["two_real_halves"], **found["planted"]}
    return table(["told from held-out galaxies", "accuracy"], [[name, _rate(rate)] for name, rate in named.items()])


def _statmorph_table(found: dict[str, Any]) -> list[str]:
    flagged = " and ".join(f"{_rate(rate)} {name.replace('_', '-')}" for name, rate in found["flagged"].items())
    rows = [
        [name, *(number(each["median"][of]) for of in ("generated", "held_out")), *_beside(each["wasserstein"])]
        for name, each in found["quantities"].items()
    ]
    head = ["quantity", "median generated", "median held-out", "distance", "two real halves", "ratio", "N a side"]
    relative = " Of the stretched picture: relative only." if found["relative_only"] else ""
    return [f"In the {found['band']} band; flagged as bad and left out: {flagged}.{relative}", "", *table(head, rows)]


def _nearest_table(found: dict[str, Any]) -> list[str]:
    return table(
        ["generated", "nearest in training", "distance"],
        [[row["id"], row["train_id"], number(row["distance"])] for row in found["nearest"][:10]],
    )
