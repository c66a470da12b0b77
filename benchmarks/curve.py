"""The picture of `benchmarks steps`: agreement, coverage and Frechet distance over the passes of the network that an image takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from galaxysd.errors import BadInput, Unavailable

# Colours that readers without red or green tell apart (Okabe and Ito), and a mark for each, for print without colour.
SOLVERS = {"euler": ("#E69F00", "s"), "heun": ("#0072B2", "o"), "dpmpp_2m": ("#D55E00", "^")}
OTHERS = {"always": "full", "middle": "left", "never": "none"}  # guidance intervals, by how a mark is filled
TICKS = (4, 6, 8, 12, 16, 24, 35, 50, 70)


def plots(groups: Sequence[list[Row]], path: Path) -> list[Path]:
    """A picture for each model and machine: FILE.png, FILE-2.png, ..."""
    if not groups:
        raise BadInput("--plot: no rows to draw; measure points first: python -m benchmarks steps MODEL")
    paths = [path if not number else path.with_name(f"{path.stem}-{number + 1}{path.suffix}") for number in range(len(groups))]
    for each in paths:
        if each.exists():
            raise BadInput(f"--plot {each}: exists already, and nothing is overwritten; give another name, or take it away first")
    try:
        import matplotlib
    except ImportError:
        raise Unavailable("--plot needs matplotlib: pip install matplotlib (or leave --plot away)") from None
    matplotlib.use("agg")
    path.parent.mkdir(parents=True, exist_ok=True)
    for group, each in zip(groups, paths, strict=True):
        _plot(group, each)
    return paths


def _plot(group: list[Row], path: Path) -> None:
    from matplotlib import pyplot

    last = group[-1]
    panels: tuple[tuple[str, Callable[[Row], Any]], ...] = (
        ("mean ratio to the judge's own rate", lambda row: {"value": row["mean_ratio"], "margin": row["margin"]}),
        ("coverage", lambda row: row["coverage"]),
        ("Frechet distance", lambda row: row["frechet"]),
    )
    figure, every = pyplot.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    for axes, (title, value) in zip(every, panels, strict=True):
        _panel(axes, group, value)
        axes.set_title(title, fontsize=11)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in TICKS if low <= tick <= high], [str(tick) for tick in TICKS if low <= tick <= high])
        axes.set_xticks([], minor=True)
        axes.grid(True, color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    if all(row["frechet"] for row in group):
        every[2].set_yscale("log")
        every[2].yaxis.set_major_formatter("{x:g}")
        every[2].yaxis.set_minor_formatter("{x:g}")
    every[1].set_xlabel("passes of the network an image (an evaluation under guidance is two)")
    handles = {label: handle for axes in every for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    score, how = last["score"], last["settings"]
    led = f" led away from {last['guide_sha256'][:12]}" if last["guide_sha256"] else ""
    figure.suptitle(
        f"{last['model']} ({last['model_sha256'][:12]}){led}, "
        f"{score['n']} galaxies of each class a point, {how['precision']}, {last['card']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _guided(row: Row) -> str:
    strength, (low, high) = row["settings"]["guidance"], row["settings"]["interval"]
    return "no guidance" if strength == 1 else f"guided {low:g} to {high:g}"


def _panel(axes: Any, group: list[Row], value: Callable[[Row], Any]) -> None:
    for solver, (colour, mark) in SOLVERS.items():
        for interval in ("own", *OTHERS):
            some = [row for row in group if row["settings"]["sampler"] == solver and row["interval_name"] == interval and value(row)]
            if not some:
                continue
            places, heights = [row["passes"] for row in some], [value(row)["value"] for row in some]
            if interval == "own":
                axes.plot(places, heights, "-", marker=mark, color=colour, markersize=5, linewidth=1.6, label=solver)
            else:
                fill = {"fillstyle": OTHERS[interval], "markerfacecoloralt": "white", "markersize": 9, "markeredgewidth": 1.4}
                axes.plot(places, heights, linestyle="", marker=mark, color=colour, label=f"{solver}, {_guided(some[0])}", **fill)
            if "margin" in value(some[0]):
                axes.errorbar(places, heights, [value(row)["margin"] for row in some], fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
    floors = [value(row) for row in group if value(row) and "floor" in value(row)]
    if floors:
        low, high = floors[-1]["floor_range"]
        axes.axhspan(low, high, color="0.85", zorder=0, label="two held-out halves, 95 %")
        axes.text(0.98, 0.02, f"N {floors[-1]['rows']} a side", transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color="0.3")
