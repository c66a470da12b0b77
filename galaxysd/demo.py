"""`galaxysd demo`: the whole story in a few minutes on any machine, ending with a page to look at.

Simulated galaxies train a small model while they are rendered; it draws galaxies by answers and like held-out ones; the judge and the
measurements say what they are worth; the denoiser leaves as ONNX; a page shows everything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from galaxysd.config import Config

PRESET, POPULATION = "smoke-32", "tutorial"
TRAIN_SEED, HELD_OUT_SEED, SAMPLE_SEED = 1, 2, 3
CLASSES = ("smooth round", "cigar", "edge-on", "irregular")
SHORTEST = 1.0  # minutes


@dataclass(frozen=True)
class Share:
    """How a budget of minutes is spent: galaxies, and seconds kept back for what comes after training."""

    pool: int
    held_out: int
    per_class: int
    like: int
    after_training: float

    @classmethod
    def of(cls, minutes: float) -> Share:
        part = min(1.0, minutes / 5)
        return cls(int(16_384 * part), 1024, max(8, int(50 * part)), max(32, int(160 * part)), 15 + 45 * part)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=5.0, help="the whole budget, from start to page (%(default)g)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for everything the demo makes")


def run(args: argparse.Namespace) -> None:
    from galaxysd import files
    from galaxysd.errors import GalaxySDError

    if not args.minutes >= SHORTEST:
        raise GalaxySDError(f"--minutes {args.minutes:g}: the demo needs at least {SHORTEST:g}")
    files.new_folder(args.out)
    summary = Demo(args.out, args.minutes).go()
    print(
        json.dumps(summary)
        if args.json
        else "\n".join([f"{name:9} {line}" for name, line in summary["lines"]] + [f"page      {summary['page']}"])
    )


class Demo:
    """One demo in one folder."""

    def __init__(self, out: Path, minutes: float) -> None:
        self.out, self.minutes = out, minutes
        self.began = time.monotonic()
        self.share = Share.of(minutes)
        self.facts: dict[str, Any] = {"minutes": minutes, "seconds": {}}
        self.lines: list[tuple[str, str]] = []

    def go(self) -> dict[str, Any]:
        from galaxysd import files

        steps = (self.threads, self.simulate, self.train, self.sample, self.evaluate, self.export, self.page)
        for step in steps:
            started = time.monotonic()
            step()
            self.facts["seconds"][step.__name__] = round(time.monotonic() - started, 1)
        self.facts["seconds"]["all"] = round(time.monotonic() - self.began, 1)
        self.facts["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        files.commit_json(self.out / "demo.json", {**self.facts, "lines": self.lines})
        return {**self.facts, "lines": self.lines, "page": str(self.out / "page.html")}

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def threads(self) -> None:
        """Picks the thread count by a one-second trial of what a step spends its time on: forward and backward."""
        import torch

        from galaxysd import config as configs
        from galaxysd.diffusion.denoiser import resolve_dtype

        config = configs.load(PRESET)
        rates = trial_rates(config, sorted({1, max(1, torch.get_num_threads() // 2), torch.get_num_threads()}))
        best = max(rates, key=lambda n: rates[n])
        torch.set_num_threads(best)
        # One EMA length and one schedule for any budget: what is trained is stopped by the clock.
        train = dataclasses.replace(config.train, threads=best, aligned=True, save_minutes=0.0)
        self.config = dataclasses.replace(config, train=train)
        dtype = str(resolve_dtype(config.train.dtype, torch.device("cpu"))).removeprefix("torch.")
        self.facts["threads"] = {"chosen": best, "img_per_s": {str(n): round(rate) for n, rate in rates.items()}, "dtype": dtype}
        shown = ", ".join(f"{n}: {rate:.0f} img/s" for n, rate in rates.items())
        self.say(f"{dtype}, {best} threads (a trial step at {shown})")

    def simulate(self) -> None:
        """The galaxies that nobody trains on, as a set; those to train on are rendered while training."""
        from galaxysd.data import readers, shards
        from galaxysd.data.mixed import Kept
        from galaxysd.simulate.survey import SimulatedSource

        size = self.config.model.image_size
        source = SimulatedSource(POPULATION, HELD_OUT_SEED, 0, self.share.held_out, size, chunk=512)
        with shards.SetWriter(self.out / "held-out", source.frame, {"made_by": "galaxysd simulate", **source.describe()}, 512) as writer:
            for number in range(len(source.chunk_rows)):
                writer.write(number, source.load(number))
            writer.finish()
        self.held_out = readers.open_set(self.out / "held-out")
        # Rendered once: the training reads it, and the search for copies reads it again.
        self.source = Kept(SimulatedSource(POPULATION, TRAIN_SEED, 0, self.share.pool, size))
        self.say(f"simulated {len(self.held_out)} held-out galaxies of the {POPULATION} population")

    def train(self) -> None:
        import torch

        from galaxysd.errors import Stopped
        from galaxysd.runlog import StopSignals
        from galaxysd.sample import load
        from galaxysd.train import loop
        from galaxysd.train.command import fit_stretch
        from galaxysd.train.denoise import DenoiseTask

        left = 60 * self.minutes - (time.monotonic() - self.began) - self.share.after_training
        config = dataclasses.replace(self.config, train=dataclasses.replace(self.config.train, minutes=round(left / 60, 3)))
        self.say(f"training {PRESET} for {left:.0f} s on galaxies rendered meanwhile")
        task = DenoiseTask(config, self.source.frame, fit_stretch(self.source, config), torch.device("cpu"))
        try:
            with StopSignals() as stop:
                result = loop.train(task, self.source, self.out / "run", stop)
        except Stopped as error:
            raise Stopped(f"{self.out}: the demo was stopped while it trained; start it again with a new --out") from error
        self.generator = load(self.out / "run", device="cpu")
        rate = result.images / result.seconds
        self.facts["train"] = {"steps": result.steps, "images": result.images, "img_per_s": round(rate), "loss": result.loss}
        self.lines.append(("trained", f"{result.images:,} images in {result.seconds:.0f} s ({rate:.0f} img/s), loss {result.loss:.3f}"))

    def sample(self) -> None:
        """Galaxies by answers, and galaxies like the held-out ones."""
        import torch

        from galaxysd.data import conditions, readers
        from galaxysd.data.conditions import Conditions
        from galaxysd.sample.command import draw_set
        from galaxysd.sample.generate import Settings
        from galaxysd.sample.requests import requested

        settings = Settings.of(self.generator.config.sample)
        asked = [requested(name, self.share.per_class, conditions.TYPICAL_VOTERS, self.generator.schema)[0] for name in CLASSES]
        # One of each class in turn, so that the first row of the page shows them all.
        by_class = Conditions(*(torch.stack([getattr(each, part) for each in asked], 1).flatten(0, 1) for part in ("counts", "numeric")))
        like = conditions.like(self.held_out.read(self.share.like))
        for name, rows in (("classes", by_class), ("like", like)):
            draw_set(self.generator, rows, self.out / name, SAMPLE_SEED, settings)
        self.classes, self.like = readers.open_set(self.out / "classes"), readers.open_set(self.out / "like")
        how = f"{settings.sampler}, {settings.steps} steps"
        self.say(f"drew {len(self.classes)} galaxies by answer and {len(self.like)} like held-out ones ({how})")

    def evaluate(self) -> None:
        from galaxysd import files
        from galaxysd.evaluate import report
        from galaxysd.evaluate.command import evaluate, find_judge

        judge, why = find_judge()
        found = {}
        for name, generated, train in (("classes", self.classes, None), ("like", self.like, self.source)):
            evaluation = evaluate(generated, self.held_out, train, judge, why_no_judge=why, names=(name, "held-out", "training"))
            with files.filled(self.out / f"report-{name}") as folder:
                report.write(folder, evaluation)
            found[name] = evaluation.findings
        self.facts["evaluation"] = found
        self.judge = judge
        self.lines.append(("classes", classes_line(found["classes"]["classes"], why)))
        self.lines.append(("flux", flux_line(found["like"]["flux_ratio"])))
        self.lines.append(("copies", copies_line(found["like"])))

    def export(self) -> None:
        from galaxysd.errors import Unavailable
        from galaxysd.export.bundle import export

        try:
            found = export(self.out / "run", self.out / "export")
        except Unavailable as error:
            self.lines.append(("export", f"not done: {error}"))
            return
        worst = max(case["error"] for case in found["cases"])
        self.facts["export"] = found
        self.lines.append(
            ("export", f"a bundle whose ONNX graphs agree with torch within {worst:.1e} of the output's spread ({found['provider']})")
        )

    def page(self) -> None:
        from galaxysd import files
        from galaxysd.gallery import page

        panels: dict[str, Any] = {}
        provenance = {}
        for name, each in (("generated", self.classes), ("simulated", self.held_out)):
            galaxies = each.read(len(self.classes))
            measured = None if self.judge is None else self.judge.look(galaxies, each.frame)[0]
            panels[name] = (galaxies, each.frame, measured)
            provenance[name] = each.provenance
        figures = [
            (caption, path.read_bytes())
            for caption, path in (
                ("Requested classes, as the judge finds them", self.out / "report-classes" / "classes.png"),
                ("Galaxies like held-out ones, beside them", self.out / "report-like" / "distributions.png"),
            )
            if path.exists()
        ]
        notes = [] if self.judge is not None else ["Votes are not measured: no judge is installed."]
        text = page.build(panels, "galaxysd demo", self.lines, figures, provenance, notes)
        files.commit(self.out / "page.html", lambda file: file.write(text.encode()))


def trial_rates(config: Config, counts: Sequence[int], seconds: float = 1.0) -> dict[int, float]:
    """Training images a second at each thread count: the best step of each, in turns for about a second.

    The best, and in turns, so that a neighbour's burst decides little.
    """
    import torch

    from galaxysd.data import conditions
    from galaxysd.data.schema import schema
    from galaxysd.diffusion.denoiser import Denoiser, resolve_dtype, resolve_layout
    from galaxysd.diffusion.loss import edm_loss
    from galaxysd.model.layers import laid_out
    from galaxysd.model.unet import UNet

    width = conditions.width(schema(config.condition.schema))
    device = torch.device("cpu")
    dtype = resolve_dtype(config.train.dtype, device)
    layout = resolve_layout(config.train.layout, device, dtype)
    denoiser = Denoiser(laid_out(UNet(config.model, width), layout), config.diffusion, dtype)
    denoiser.layout = layout
    batch, side = config.train.batch, config.model.image_size
    x0, features = torch.zeros(batch, config.model.image_channels, side, side), torch.zeros(batch, width)
    before, best = torch.get_num_threads(), dict.fromkeys(counts, 0.0)
    began, warm = time.monotonic(), False
    while not warm or time.monotonic() - began < seconds:
        for threads in counts:
            torch.set_num_threads(threads)
            step = time.monotonic()
            edm_loss(denoiser, x0, features, torch.ones(batch), x0).mean().backward()
            if warm:
                best[threads] = max(best[threads], batch / (time.monotonic() - step))
        if not warm:
            warm, began = True, time.monotonic()
    torch.set_num_threads(before)
    return best


def classes_line(found: dict[str, Any] | None, why: str) -> str:
    """How often the judge finds what was asked for, as a share of how often it finds that in held-out galaxies."""
    if found is None:
        return f"not measured: {why or 'no requests'}"
    each = ", ".join(f"{name} {entry['ratio']['ratio']:.2f}" for name, entry in found["classes"].items())
    return (
        f"found in {found['generated']['rate']:.2f} of {found['rows']} requests, {found['mean_ratio']:.2f} of the judge's own rate "
        f"({each}); shuffled {found['shuffled']['rate']:.2f}, chance {found['chance']:.2f}"
    )


def flux_line(found: dict[str, Any] | None) -> str:
    """The median flux ratio over bands and bins of magnitude, beside what two halves of the held-out galaxies differ by."""
    bands = [band for row in (found or {"bins": []})["bins"] for band in row.get("bands", {}).values()]
    if not bands:
        return "not measured: too few galaxies with a magnitude"
    ratios, floors = [band["ratio"] for band in bands], [end for band in bands for end in band["floor_range"]]
    return (
        f"median ratio at the requested magnitude {min(ratios):.2f} to {max(ratios):.2f} over {len(bands)} bands and bins, "
        f"two held-out halves {min(floors):.2f} to {max(floors):.2f}"
    )


def copies_line(found: dict[str, Any]) -> str:
    """Coverage, and how near the nearest training galaxy is, beside the same of held-out galaxies."""
    space = found["spaces"].get("the judge's embedding") or found["spaces"]["measured properties"]
    cover, near = space["coverage"], found["memorisation"]
    return (
        f"coverage {cover['value']:.2f} (held-out halves {cover['floor']:.2f}); nearest training galaxy at "
        f"{near['generated']['median']:.2f} (held-out {near['held_out']['median']:.2f}), {near['suspected_copies']} suspected copies"
    )
