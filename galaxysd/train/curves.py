"""The curves of a run, from its log: loss, gradient norm and rate over the images seen. Drawn anew whenever the run shows what it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from galaxysd import files, runlog

NAME = "curves.png"
WINDOW = 0.05  # share of the run so far that the smooth line averages over
BLUE, GREY = "#0072B2", "#999999"  # Okabe and Ito's, told apart without red or green


def write(run: Path) -> Path | None:
    """Draws `curves.png` into the folder of a run; gives its path, None without matplotlib or with fewer than two logged steps."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator
    except ImportError:
        return None
    rows = [row for row in runlog.read(run / "log.jsonl") if "gradient" in row]
    if len(rows) < 2:
        return None
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10.5, 3.2), layout="constrained")
        images = [row["images"] / 1e3 for row in rows]
        panels = ("loss", "loss", "log"), ("gradient", "norm of the gradient", "log"), ("rate", "images a second", "linear")
        for axes, (column, title, scale) in zip(figure.subplots(1, 3), panels, strict=True):
            values = rates(rows) if column == "rate" else [row[column] for row in rows]
            axes.plot(images, values, color=GREY, linewidth=0.8)
            axes.plot(images, smooth(values), color=BLUE, linewidth=1.8)
            axes.set_title(title)
            axes.set_yscale(scale)
            axes.set_xlabel("thousand images seen")
            axes.grid(True, color="0.9", linewidth=0.8)
            if scale == "log":
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
                axes.yaxis.set_minor_formatter("{x:g}")
            else:
                axes.set_ylim(bottom=0)
        hours = rows[-1]["seconds"] / 3600
        figure.suptitle(f"{run.name}: {rows[-1]['images']:,} images in {hours:.2g} hours of steps; blue averages over 5 % of them")
        path = run / NAME
        files.commit(path, lambda file: figure.savefig(file, dpi=110, format="png"), replace=True)
    return path


def rates(rows: list[dict[str, Any]]) -> list[float]:
    """Images a second between each logged step and the one before; the first is from the start."""
    seen, seconds = 0, 0.0
    found: list[float] = []
    for row in rows:
        passed = row["seconds"] - seconds
        if passed <= 0:  # logged to a tenth of a second
            found.append(found[-1] if found else 0.0)
            continue
        found.append((row["images"] - seen) / passed)
        seen, seconds = row["images"], row["seconds"]
    return found


def smooth(values: list[float]) -> list[float]:
    """The mean of each value's neighbours, those within half a window on either side that both sides have."""
    half = round(len(values) * WINDOW / 2)
    found = []
    for place in range(len(values)):
        reach = min(half, place, len(values) - 1 - place)
        some = values[place - reach : place + reach + 1]
        found.append(sum(some) / len(some))
    return found
