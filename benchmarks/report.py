"""`python -m benchmarks report`: ratio and roofline plots, and the README's table, from the rows alone. It measures nothing."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks import pace_report, rows
from benchmarks.rows import Row
from galaxysd.errors import Unavailable
from galaxysd.kernels.cases import CASES

NOTHING = "not measured on a GPU yet"
# Floating-point operations of a value of the map, forward and with backward: statistics, normalisation, affines, activation.
NORM_FLOPS = {"forward": 12, "forward+backward": 40}


def machines(found: list[Row]) -> dict[str, list[Row]]:
    """The newest green row of every measurement, by card, in the order of the cases."""
    order = list(CASES)
    by: dict[str, list[Row]] = {}
    for card in sorted({row["card"] for row in found if row["kind"] == "kernel"}):
        mine = rows.latest([row for row in found if row["card"] == card]).values()
        known = [row for row in mine if row["case"] in order and row["ratios"]]
        if known:
            by[card] = sorted(known, key=lambda row: (order.index(row["case"]), row["shape"], row["pass"]))
    return by


def provenance(found: list[Row]) -> str:
    """Card, versions, commits and days of some rows."""
    versions = sorted(
        {f"torch {row['machine']['versions'].get('torch')}, triton {row['machine']['versions'].get('triton')}" for row in found}
    )
    commits = sorted({row["commit"][:9] + (" (changed)" if row["dirty"] else "") for row in found})
    days = sorted({row["time"][:10] for row in found})
    return f"{'; '.join(versions)}; commit {', '.join(commits)}; {days[0]}" + (f" to {days[-1]}" if days[-1] != days[0] else "")


def table(found: list[Row]) -> Iterator[str]:
    """Markdown lines: how many times as long as ours each peer takes."""
    peers = sorted({peer for row in found for peer in row["ratios"]})
    yield f"| case | shape | dtype | pass | {' | '.join(peers)} | of copy | error over torch's |"
    yield "| --- " * (6 + len(peers)) + "|"
    for row in found:
        shown = [f"{row['ratios'][peer]['median']:.2f}" if peer in row["ratios"] else "" for peer in peers]
        cells = [
            row["case"],
            row["shape"],
            row["dtype"],
            row["pass"],
            *shown,
            f"{row['fraction_of_copy']:.2f}",
            f"{row['error_ratio']:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def markdown(cpu: list[Row], gpu: list[Row]) -> Iterator[str]:
    """The README's part on kernels."""
    for name, found in (("GPU", gpu), ("CPU", cpu)):
        by = machines(found)
        if not by:
            yield f"{name}: {NOTHING if name == 'GPU' else 'not measured yet'}."
        for card, mine in by.items():
            what = "The Triton kernels" if name == "GPU" else "The CPU's operators, one thread (the Triton kernels do not run here)"
            yield f"{what} on {card}: how many times as long as ours a peer takes. {provenance(mine)}."
            yield ""
            yield from table(mine)
            yield from _sums(found, card)
        yield ""


def _sums(found: list[Row], card: str) -> Iterator[str]:
    last = {(row["kind"], row["preset"]): row for row in found if row["card"] == card and row["kind"] in ("headline", "profile")}
    for (kind, preset), row in sorted(last.items()):
        yield ""
        if kind == "headline":
            shown = ", ".join(f"{peer} {each['median']:.2f}" for peer, each in row["ratios"].items())
            yield f"Norms and attention of one `{preset}` training step, each shape times its calls, in times of ours: {shown}."
        else:
            shown = ", ".join(f"{name} {share:.0%}" for name, share in row["shares"].items())
            yield f"Device time of a `{preset}` training step: {shown}."


def flops(row: Row) -> float:
    """Operations of a measured pass: matrix products of an attention, the arithmetic of a norm."""
    batch, height, width, channels = (sum(map(int, each.split("+"))) for each in row["shape"].partition("/")[0].split("x"))
    n = height * width
    if row["case"].startswith("attention"):
        return (4 if row["pass"] == "forward" else 14) * batch * n * n * channels
    return NORM_FLOPS[row["pass"]] * batch * n * channels


def _ratios(axes, mine: list[Row]) -> None:  # type: ignore[no-untyped-def]
    peers = sorted({peer for row in mine for peer in row["ratios"]})
    for index, peer in enumerate(peers):
        points = [(at, row["ratios"][peer]) for at, row in enumerate(mine) if peer in row["ratios"]]
        places = [at + 0.6 * (index + 0.5) / len(peers) - 0.3 for at, _ in points]
        medians = [each["median"] for _, each in points]
        low, high = ([abs(each[name] - each["median"]) for _, each in points] for name in ("p20", "p80"))
        axes.errorbar(medians, places, xerr=(low, high), fmt="o", markersize=4, capsize=2, label=peer)
    axes.axvline(1, color="0.6", linewidth=1, zorder=0)
    axes.set_yticks(range(len(mine)), [f"{row['case']} {row['shape']}  {'f+b' if '+' in row['pass'] else 'f'}" for row in mine], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = [tick for tick in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20) if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("time of the peer / time of ours (right of 1: ours is faster); bars: 20th to 80th percentile")
    axes.legend(fontsize=8)


def _roofline(axes, mine: list[Row], ceilings: dict[str, float]) -> None:  # type: ignore[no-untyped-def]
    copy = ceilings.get("copy", max(row["bytes"] / row["seconds"]["copy"] for row in mine) / 1e9) * 1e9
    for case in dict.fromkeys(row["case"] for row in mine):
        for which, marker in (("forward", "o"), ("forward+backward", "s")):
            some = [row for row in mine if row["case"] == case and row["pass"] == which]
            colour = f"C{list(CASES).index(case)}"
            label = case if which == "forward" else None
            intensity, rate = [flops(r) / r["bytes"] for r in some], [flops(r) / r["seconds"]["ours"] for r in some]
            axes.loglog(intensity, rate, marker, color=colour, label=label, markersize=5)
    low, high = axes.get_xlim()
    reach = [low, high]
    where = "copy" if "copy" in ceilings else "copy of maps this small"  # those of a CPU's step stay in its caches
    axes.loglog(reach, [copy * each for each in reach], "-", color="0.4", label=f"{where}, {copy / 1e9:.0f} GB/s")
    if "matmul" in ceilings:
        axes.axhline(ceilings["matmul"] * 1e12, color="0.4", linestyle="--", label=f"matmul, {ceilings['matmul']:.0f} TFLOP/s")
    axes.set_xlim(low, high)
    axes.set_xlabel("operations for each byte that cannot be avoided (circles: forward, squares: forward and backward)")
    axes.set_ylabel("operations a second")
    axes.legend(fontsize=8)


def plots(found: list[Row], folder: Path, name: str) -> list[Path]:
    """Draws both pictures of every card; gives their paths."""
    try:
        import matplotlib
    except ImportError:
        raise Unavailable("--out needs matplotlib: pip install matplotlib (the table needs nothing: leave --out away)") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (card, mine) in enumerate(machines(found).items()):
        ceilings = {row["name"]: row["value"] for row in found if row["kind"] == "ceiling" and row["card"] == card}
        for kind, size in (("ratios", (9, 1.5 + 0.3 * len(mine))), ("roofline", (8, 5.5))):
            figure, axes = pyplot.subplots(figsize=size, layout="constrained")
            if kind == "ratios":
                _ratios(axes, mine)
            else:
                _roofline(axes, mine, ceilings)
            axes.set_title(f"{card}, {provenance(mine)}", fontsize=8)
            path = folder / f"kernels-{name}-{kind}{f'-{number + 1}' if number else ''}.png"
            figure.savefig(path, dpi=130)
            pyplot.close(figure)
            written.append(path)
    return written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also draw plots into this folder (needs matplotlib)")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, metavar="FOLDER", help="where rows are (benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    cpu, gpu = (rows.read(rows.path(args.results, on)) for on in ("cpu", "cuda"))
    print("\n".join(markdown(cpu, gpu)).rstrip())
    if args.out is not None:
        written = [each for name, found in (("cpu", cpu), ("gpu", gpu)) for each in plots(found, args.out, name)]
        steps = {name: rows.read(rows.path(args.results, on, "pace")) for name, on in (("cpu", "cpu"), ("gpu", "cuda"))}
        written += [each for name, found in steps.items() for each in pace_report.plots(found, args.out, name)]
        print("\n" + ("\n".join(f"drawn: {path}" for path in written) if written else "nothing to draw: no rows"))
    return 0
