"""The pictures of a report, in two colours that every eye tells apart and a grey band for the real-against-real floor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from galaxysd import files
from galaxysd.data.transforms import symmetry
from galaxysd.evaluate.distances import SPLITS, halves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from galaxysd.evaluate.report import Evaluation

GENERATED, HELD_OUT, FLOOR, THIRD = "#D55E00", "#0072B2", "#BBBBBB", "#009E73"  # Okabe and Ito
BANDS = {"u": "#CC79A7", "g": THIRD, "r": GENERATED, "i": "#CC79A7", "z": "#56B4E9"}
BINS = 24
PAIRS = 8  # rows shown beside their nearest training galaxy


def draw(folder: Path, evaluation: Evaluation) -> list[str]:
    """Draws what the findings hold; gives the file names, none where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure  # noqa: F401  no pyplot: no global state, no display
    except ModuleNotFoundError:
        return []
    found = evaluation.findings
    drawn = {"distributions.png": distributions(evaluation)}
    if found["classes"]:
        drawn["classes.png"] = classes(found["classes"])
    if found["fractions"]:
        drawn["fractions.png"] = fractions(found["fractions"])
    if found["flux_ratio"] and any("bands" in row for row in found["flux_ratio"]["bins"]):
        drawn["flux.png"] = flux(found["flux_ratio"])
    drawn["planes.png"] = planes(evaluation)
    if found["calibration"] and found["calibration"]["bins"]:
        drawn["reliability.png"] = reliability(found["calibration"])
    if evaluation.nearest:
        drawn["nearest.png"] = nearest(evaluation)
        drawn["pairs.png"] = pairs(evaluation)
    written = []
    for name, figure in drawn.items():
        for kind in ("png", "pdf"):
            written.append(name.removesuffix("png") + kind)
            files.commit(folder / written[-1], lambda file, figure=figure, kind=kind: figure.savefig(file, format=kind, dpi=110))  # type: ignore[misc]
    return written


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _log(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())


def distributions(evaluation: Evaluation) -> Figure:
    """One histogram a property: generated, held-out, and the band in which halves of the held-out set lie."""
    found = evaluation.findings["distributions"]
    across = 4
    down = -(-len(found) // across)
    figure = _figure(3.1 * across, 2.4 * down + 0.4)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    for axes, (name, each) in zip(grid, found.items(), strict=False):
        _clean(axes)
        new, real = (of.properties[name][of.properties[name].isfinite()] for of in (evaluation.generated, evaluation.held_out))
        axes.set_yticks([])
        if not len(new) or not len(real):
            axes.set_title(f"{name}: nothing measured", fontsize=9)
            continue
        edges, scale = _edges(name, new, real)
        middle = 0.5 * (edges[1:] + edges[:-1])
        if len(real) >= 4:
            parts = torch.stack([_share(real[halves(len(new), len(real), 0, split)[1]], edges) for split in range(SPLITS)])
            low, high = parts.quantile(0.025, 0), parts.quantile(0.975, 0)
            axes.fill_between(
                middle.tolist(), low.tolist(), high.tolist(), step="mid", color=FLOOR, linewidth=0, label="halves of held-out"
            )
        axes.step(middle.tolist(), _share(real, edges).tolist(), where="mid", color=HELD_OUT, linewidth=1.6, label="held-out")
        axes.step(
            middle.tolist(),
            _share(new, edges).tolist(),
            where="mid",
            color=GENERATED,
            linewidth=1.6,
            linestyle=(0, (4, 1)),
            label="generated",
        )
        if scale == "log":
            _log(axes)
        axes.set_ylim(bottom=0)
        w1 = each["wasserstein"]
        unit = f" [{each['unit']}]" if each["unit"] else ""
        times = "" if w1 is None or w1["ratio"] is None else f"\n{w1['ratio']:.1f} x floor, N {w1['rows']}"
        axes.set_title(f"{name.replace('_', ' ')}{unit}{times}", fontsize=9)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _edges(name: str, new: Tensor, real: Tensor) -> tuple[Tensor, str]:
    """Bin edges over both samples but for the outermost half percent of each; logarithmic for flux."""
    both = torch.cat((new, real)).double()
    if name.startswith("flux") and bool((both > 0).all()):
        low, high = both.log10().quantile(0.005), both.log10().quantile(0.995)
        return 10 ** torch.linspace(float(low), float(high) + 1e-6, BINS + 1, dtype=torch.float64), "log"
    low, high = both.quantile(0.005), both.quantile(0.995)
    return torch.linspace(float(low), float(high) + 1e-9 + 1e-6 * abs(float(high)), BINS + 1, dtype=torch.float64), "linear"


def _share(values: Tensor, edges: Tensor) -> Tensor:
    """The share of `values` in each bin; what is outside goes into the outermost bins."""
    place = (torch.searchsorted(edges, values.double(), right=True) - 1).clamp(0, len(edges) - 2)
    return torch.bincount(place, minlength=len(edges) - 1).double() / len(values)


def classes(found: dict[str, Any]) -> Figure:
    """How often the requested class is found, beside the judge's own rate, shuffled requests and chance."""
    figure = _figure(max(7.2, 0.9 * len(found["classes"])), 3.6)
    axes = figure.subplots()
    _clean(axes)
    series = (
        ("judge_on_held_out", "judge on held-out galaxies", HELD_OUT),
        ("generated", "generated", GENERATED),
        ("shuffled", "requests shuffled", FLOOR),
    )
    for offset, (key, label, colour) in enumerate(series):
        for place, each in enumerate(found["classes"].values()):
            rate = each[key]
            if rate["rate"] is None:
                continue
            at = place + 0.26 * (offset - 1)
            axes.bar(at, rate["rate"], 0.24, color=colour, label=label if place == 0 else None)
            errors = [[rate["rate"] - rate["interval"][0]], [rate["interval"][1] - rate["rate"]]]
            axes.errorbar(at, rate["rate"], yerr=errors, color="black", linewidth=1, capsize=2)
            axes.text(at, 0.02, f"{rate['rows']}", ha="center", fontsize=7, color="white" if offset < 2 else "black")
    for place, each in enumerate(found["classes"].values()):
        axes.hlines(
            each["chance"]["rate"],
            place - 0.4,
            place + 0.4,
            color="black",
            linestyle=":",
            linewidth=1.2,
            label="chance" if place == 0 else "_",
        )
    axes.set_xticks(range(len(found["classes"])), [name.replace(" ", "\n", 1) for name in found["classes"]])
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share found by the judge")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def fractions(found: dict[str, Any]) -> Figure:
    """Correlation of requested and measured fractions per answer, beside what the judge reaches on held-out votes."""
    figure = _figure(7.2, 0.8 + 0.24 * len(found))
    axes = figure.subplots()
    _clean(axes)
    for place, each in enumerate(found.values()):
        mine, real = each["generated"]["correlation"], each["held_out"]["correlation"]
        if mine is not None:
            axes.barh(place, mine, 0.6, color=GENERATED)
        if real is not None:
            axes.plot([real], [place], "D", color=HELD_OUT, markersize=5)
    axes.set_yticks(range(len(found)), [f"{answer} ({each['generated']['rows']})" for answer, each in found.items()], fontsize=7.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlim(-0.4, 1.02)
    axes.set_xlabel("correlation of requested and measured fraction\nbars: generated (rows); diamonds: judge on held-out votes", fontsize=9)
    axes.set_ylim(len(found) - 0.4, -0.6)
    return figure


def flux(found: dict[str, Any]) -> Figure:
    """Median flux of generated over held-out galaxies per magnitude bin, one panel a band, with the band of two real halves."""
    rows = [row for row in found["bins"] if "bands" in row]
    names = list(rows[0]["bands"])
    figure = _figure(2.9 * len(names) + 0.6, 2.9)
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, band in zip(grid, names, strict=True):
        _clean(axes)
        for row in rows:
            each, (left, right) = row["bands"][band], row["magnitude"]
            axes.fill_between([left, right], *[[end, end] for end in each["floor_range"]], color=FLOOR, linewidth=0)
            axes.plot([left, right], [each["ratio"]] * 2, color=GENERATED, linewidth=2)
            axes.text((left + right) / 2, each["ratio"], f"{row['generated']}", fontsize=7, ha="center", va="bottom")
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(f"{band} band", fontsize=9)
        axes.set_xlabel("requested magnitude", fontsize=9)
    grid[0].set_ylabel("median flux, generated / held-out", fontsize=9)
    figure.supxlabel("grey: two real halves; numbers: generated rows", fontsize=8)
    return figure


def planes(evaluation: Evaluation) -> Figure:
    """Size against brightness and colour against colour, both sets, equally many points."""
    names = list(evaluation.generated.properties)
    colours = [name for name in names if name.startswith("colour")]
    bright = next((name for name in names if name == "magnitude_r"), next((n for n in names if n.startswith("magnitude")), "display_level"))
    pairs = [(bright, "r50"), tuple(colours[:2]) if len(colours) >= 2 else ("concentration", "ellipticity")]
    figure = _figure(8.4, 3.9)
    for axes, (x, y) in zip(figure.subplots(1, 2), pairs, strict=True):
        _clean(axes)
        rows = min(len(evaluation.generated), len(evaluation.held_out), 1500)
        for of, colour, mark, label in (
            (evaluation.held_out, HELD_OUT, "o", "held-out"),
            (evaluation.generated, GENERATED, "x", "generated"),
        ):
            axes.scatter(
                of.properties[x][:rows], of.properties[y][:rows], s=10, c=colour, marker=mark, linewidths=0.8, alpha=0.55, label=label
            )
        real = evaluation.held_out.properties
        for setter, name in ((axes.set_xlim, x), (axes.set_ylim, y)):
            ends = real[name][real[name].isfinite()].double()
            if len(ends) > 1:
                low, high = float(ends.quantile(0.005)), float(ends.quantile(0.995))
                margin = 0.25 * (high - low) + 1e-6
                setter(low - margin, high + margin)
        axes.set_xlabel(x.replace("_", " "), fontsize=9)
        axes.set_ylabel(y.replace("_", " "), fontsize=9)
        axes.legend(frameon=False, fontsize=8)
    return figure


def nearest(evaluation: Evaluation) -> Figure:
    """Distances to the nearest training galaxy: generated and held-out."""
    assert evaluation.nearest is not None
    mine, real = (each.distance.double() for each in evaluation.nearest)
    figure = _figure(5.6, 3.2)
    axes = figure.subplots()
    _clean(axes)
    top = float(torch.cat((mine, real)).quantile(0.995)) * 1.02 + 1e-9
    edges = torch.linspace(0, top, 2 * BINS + 1, dtype=torch.float64)
    middle = (0.5 * (edges[1:] + edges[:-1])).tolist()
    axes.step(middle, _share(real, edges).tolist(), where="mid", color=HELD_OUT, linewidth=1.6, label=f"held-out ({len(real)})")
    axes.step(
        middle,
        _share(mine, edges).tolist(),
        where="mid",
        color=GENERATED,
        linewidth=1.6,
        linestyle=(0, (4, 1)),
        label=f"generated ({len(mine)})",
    )
    axes.axvline(float(real.quantile(0.01)), color="black", linestyle=":", linewidth=1.2, label="1st percentile of held-out")
    axes.set_xlabel("rms distance to the nearest training galaxy", fontsize=9)
    axes.set_ylabel("share of rows", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    return figure


def reliability(found: dict[str, Any]) -> Figure:
    """What the judge promises of held-out votes, and what volunteers gave."""
    figure = _figure(4.2, 3.6)
    axes = figure.subplots()
    _clean(axes)
    axes.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1, label="promised is given")
    bins = found["bins"]
    axes.plot([each["predicted"] for each in bins], [each["given"] for each in bins], "o-", color=HELD_OUT, label="judge on held-out votes")
    axes.set_xlabel("fraction the judge expects", fontsize=9)
    axes.set_ylabel("fraction volunteers gave", fontsize=9)
    axes.set_title(f"expected calibration error {found['expected_calibration_error']:.3f}", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    return figure


def pairs(evaluation: Evaluation) -> Figure:
    """The generated rows nearest to training, in the coarse pixels they are compared in, each above its training galaxy."""
    assert evaluation.nearest is not None
    near = evaluation.nearest[0]
    rows = near.distance.argsort()[:PAIRS].tolist()
    figure = _figure(1.3 * len(rows) + 0.4, 3.2)
    grid = figure.subplots(2, len(rows), squeeze=False)
    for place, row in enumerate(rows):
        both = (symmetry(evaluation.generated.pixels[row : row + 1], near.code[row : row + 1])[0], near.pixels[row])
        low, high = (float(end(torch.cat([each.mean(0).flatten() for each in both]))) for end in (torch.min, torch.max))
        for axes, picture in zip(grid[:, place], both, strict=True):
            axes.imshow(picture.mean(0).numpy(), cmap="gray", vmin=low, vmax=high)
            axes.set_xticks([])
            axes.set_yticks([])
        grid[0, place].set_title(f"{float(near.distance[row]):.2f}", fontsize=8)
    grid[0, 0].set_ylabel("generated", fontsize=8)
    grid[1, 0].set_ylabel("training", fontsize=8)
    figure.supxlabel("rms distance above; the nearest on the left", fontsize=8)
    return figure
