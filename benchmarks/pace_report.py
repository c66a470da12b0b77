"""The rows of `benchmarks train` and `sample` as Markdown and as pictures. It measures nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from galaxysd.evaluate.report import table

# Colours that readers without red or green tell apart (Okabe and Ito), and a mark for each, for print without colour.
SIDES = {"ours": ("#0072B2", "o"), "plain": ("#E69F00", "s"), "diffusers": ("#009E73", "D"), "convolutions": ("#000000", "x")}
FILLS = {"": "full", "compiled": "none", "max-autotune": "left"}
RANKS = {"all ranks": ("#0072B2", "o"), "without exchange": ("#E69F00", "s")}
COLUMNS = 3  # of panels


def newest(found: list[Row]) -> list[Row]:
    """The last row of each step that was measured: verb, preset, dtype, batch, resolution, card; a sweep's are its own."""
    keys = ("name", "preset", "dtype", "batch", "size", "sweep", "card")
    return list({tuple(row[key] for key in keys): row for row in found if row["kind"] == "pace"}.values())


def outside(row: Row) -> float:
    """The share of our step that its convolutions, timed alone, do not take."""
    return 1 - float(row["ratios"]["convolutions"]["median"])


def form_of(contestant: str) -> str:
    """How it took part: eager, compiled, max-autotune."""
    return contestant.partition(", ")[2] or "eager"


def what(row: Row) -> str:
    return f"{row['name']}, `{row['preset']}`, {row['size']} px, {row['dtype']}, batch {row['batch']}"


def say(row: Row) -> str:
    """A row in one line."""
    shown = ", ".join(f"{name} {each['median']:.2f} [{each['p20']:.2f}, {each['p80']:.2f}]" for name, each in row["ratios"].items())
    if row["kind"] == "ranks":
        return f"train, {row['preset']}, {row['dtype']}, batch {row['batch']}, {row['ranks']} ranks: takes times theirs: {shown}"
    lacking = "".join(f"; {name}: {why}" for name, why in row["absent"].items())
    return f"{what(row)}: in times of {row['best']['ours']}: {shown}{lacking}"


def markdown(found: list[Row]) -> Iterator[str]:
    """Tables of the newest rows, and of what they cost against ranks."""
    latest, ranked = newest(found), [row for row in found if row["kind"] == "ranks"]
    if not latest and not ranked:
        yield "Not measured yet: `python -m benchmarks train` and `sample` append rows."
    for card in dict.fromkeys(row["card"] for row in latest):
        mine = [row for row in latest if row["card"] == card]
        yield from _head(card, mine)
        head = ["what", "ours", "img/s", "MFU", "outside convolutions", "plain takes", "diffusers takes", "copies", "held, MB"]
        yield from table(head, [_line(row) for row in mine])
        yield ""
    for card in dict.fromkeys(row["card"] for row in ranked):
        last = {(row["preset"], row["dtype"], row["batch"], row["ranks"]): row for row in ranked if row["card"] == card}
        yield from _head(card, list(last.values()))
        lines = [
            [
                f"train, `{row['preset']}`, {row['dtype']}, batch {row['batch']}", str(row["ranks"]),
                f"{row['img_per_s']['all ranks']:.1f}", f"{row['img_per_s']['one rank']:.1f}",
                f"{row['ratios']['one rank']['median'] / row['ranks']:.0%}", f"{1 - row['ratios']['without exchange']['median']:.0%}",
            ]
            for row in last.values()
        ]  # fmt: skip
        yield from table(["what", "ranks", "img/s", "of one rank", "efficiency", "exchange"], lines)
        yield ""


def _head(card: str, mine: list[Row]) -> Iterator[str]:
    commits = sorted({row["commit"][:9] + (" (changed)" if row["dirty"] else "") for row in mine})
    versions, rounds = mine[-1]["machine"]["versions"], sorted({row["rounds"] for row in mine})
    yield f"{card}, torch {versions.get('torch')}; rounds {', '.join(map(str, rounds))}; commit {', '.join(commits)}."
    yield ""


def _line(row: Row) -> list[str]:
    best = row["best"]

    def takes(name: str) -> str:
        if name not in best:
            return "not installed"
        each = row["ratios"][best[name]]
        return f"{each['median']:.2f} [{each['p20']:.2f}, {each['p80']:.2f}], {form_of(best[name])}"

    def each(found: dict[str, Any]) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in found.items())

    return [
        what(row), form_of(best["ours"]), f"{row['img_per_s']['ours']:.1f}", f"{row['mfu']['ours']:.0%}",
        f"{outside(row):.0%}", takes("plain"), takes("diffusers"), each(row["copies"]), each(row["held_mb"]),
    ]  # fmt: skip


def by_operation(row: Row) -> str:
    """Where the time of our step goes, the largest first."""
    return ", ".join(f"{name} {share:.0%}" for name, share in row["ops"].items())


def plots(found: list[Row], folder: Path, name: str) -> list[Path]:
    """Draws the ratios, and the cost against batch, resolution and ranks, of every card; gives their paths."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    written = []
    for number, card in enumerate(sorted({row["card"] for row in found if row["kind"] in ("pace", "ranks")})):
        mine = [row for row in found if row.get("card") == card]
        alone, swept = [row for row in newest(mine) if row["sweep"] is None], _swept(mine)
        wide = min(COLUMNS, len(swept))
        pictures = {"ratios": (9, 1.4 + 0.55 * len(alone))} if alone else {}
        pictures |= {"cost": (4.4 * wide, 0.3 + 4.2 * _lines(swept))} if swept else {}
        for kind, size in pictures.items():
            figure = pyplot.figure(figsize=size, layout="constrained")
            if kind == "ratios":
                _ratios(figure.subplots(), alone)
            else:
                _costs(figure, swept)
            last = mine[-1]
            title = f"{card}, torch {last['machine']['versions'].get('torch')}, {last['time'][:10]}, commit {last['commit'][:9]}"
            figure.suptitle(title, fontsize=9)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"pace-{name}-{kind}{f'-{number + 1}' if number else ''}.png"
            figure.savefig(path, dpi=130)
            pyplot.close(figure)
            written.append(path)
    return written


def _swept(found: list[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """The newest rows of each sweep, by what it is over, verb and preset."""
    by: dict[tuple[str, str, str], dict[Any, Row]] = {}
    for row in found:
        over = "ranks" if row["kind"] == "ranks" else row.get("sweep")
        if row["kind"] in ("pace", "ranks") and over is not None:
            at = row["ranks"] if over == "ranks" else row["batch"] if over == "batch" else row["size"]
            by.setdefault((over, row["name"], row["preset"]), {})[at] = row
    return {key: [rows[at] for at in sorted(rows)] for key, rows in sorted(by.items())}


def _ratios(axes: Any, mine: list[Row]) -> None:
    named: set[str] = set()
    for at, row in enumerate(mine):
        for place, (name, each) in enumerate(row["ratios"].items()):
            side, _, form = name.partition(", ")
            colour, mark = SIDES[side]
            bars = [[each["median"] - each["p20"]], [each["p80"] - each["median"]]]
            label = None if name in named else f"{side}{f', {form}' if form else ', eager' if side != 'convolutions' else ' alone'}"
            named.add(name)
            height = at + 0.6 * (place + 0.5) / len(row["ratios"]) - 0.3
            axes.errorbar(
                each["median"], height, xerr=bars, fmt=mark, color=colour, fillstyle=FILLS[form], markersize=6, capsize=2, label=label
            )
    axes.axvline(1, color="0.6", linewidth=1, zorder=0)
    labels = [f"{what(row).replace('`', '')}\nours {form_of(row['best']['ours'])}" for row in mine]
    axes.set_yticks(range(len(mine)), labels, fontsize=8)
    axes.set_ylim(len(mine) - 0.5, -0.5)
    axes.grid(True, axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.set_xlabel("time of each / time of ours in its best form (right of 1: ours is faster); bars: 20th to 80th percentile", fontsize=9)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _lines(swept: dict[tuple[str, str, str], list[Row]]) -> int:
    return -(-len(swept) // COLUMNS)


def _costs(figure: Any, swept: dict[tuple[str, str, str], list[Row]]) -> None:
    every = [figure.add_subplot(_lines(swept), min(COLUMNS, len(swept)), 1 + number) for number in range(len(swept))]
    for axes, ((over, verb, preset), points) in zip(every, swept.items(), strict=True):
        if over == "ranks":
            _against_ranks(axes, points)
        else:
            _against(axes, over, points)
        axes.set_title(f"{verb}, {preset}, {points[-1]['dtype']}", fontsize=10)
        axes.grid(True, color="0.92")
        axes.set_axisbelow(True)
        axes.legend(fontsize=8, frameon=False)


def _against(axes: Any, over: str, points: list[Row]) -> None:
    """Milliseconds an image, each side in its best form."""
    places = [row["batch"] if over == "batch" else row["size"] for row in points]
    for side, (colour, mark) in SIDES.items():
        forms = [row["best"].get(side, side) for row in points]
        if all(form in row["seconds"] for form, row in zip(forms, points, strict=True)):
            heights = [1e3 * row["seconds"][form] / row["batch"] for form, row in zip(forms, points, strict=True)]
            label = f"{side} alone" if side == "convolutions" else side
            axes.plot(places, heights, "-", marker=mark, color=colour, label=label, markersize=6, fillstyle="none")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="both", labelsize=8)
    fixed = f"batch {points[0]['batch']}" if over == "resolution" else f"{points[0]['size']} px"
    axes.set_xlabel(f"{'pixels on a side' if over == 'resolution' else 'batch'} ({fixed})")
    where = ", one thread" if points[0]["device"] == "cpu" else ""
    axes.set_ylabel(f"milliseconds an image{where}, each in its better form", fontsize=8)


def _against_ranks(axes: Any, points: list[Row]) -> None:
    """Images a second of all ranks together, from the one rank that was timed beside the fewest."""
    places, one = [1, *(row["ranks"] for row in points)], points[0]["img_per_s"]["one rank"]
    axes.plot(places, [one * place for place in places], "--", color="0.6", label="as many times one rank")
    for name, (colour, mark) in RANKS.items():
        heights = [one, *(row["img_per_s"][name] for row in points)]
        axes.plot(places, heights, "-", marker=mark, color=colour, label=name, fillstyle="none")
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"ranks (batch {points[0]['batch']} in all)")
    axes.set_ylabel("images a second")
