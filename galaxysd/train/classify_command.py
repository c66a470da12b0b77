"""`galaxysd classify train`: the trainer's loop with the classifier's loss. The shipped judge was made by this command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from galaxysd import config as configs
from galaxysd.classify import rates
from galaxysd.config import Config
from galaxysd.diffusion.denoiser import resolve_device
from galaxysd.distributed import ranks
from galaxysd.model.calibration import calibration
from galaxysd.model.classifier import load_judge
from galaxysd.runlog import StopSignals
from galaxysd.train import curves, ship
from galaxysd.train.classify import ClassifyTask
from galaxysd.train.command import add_run_arguments, fit_stretch, open_source, populations, prepared, resolve
from galaxysd.train.loop import Result, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="judge-32", help=f"one of {', '.join(configs.presets())} (%(default)s)")
    add_run_arguments(parser)
    parser.add_argument("--held-out", type=int, default=4096, help="simulated galaxies to print the rates on (%(default)s)")


def run(args: argparse.Namespace) -> None:
    with ranks(args.device) as group:
        config = group.together(lambda: resolve(args))
        if args.dry_run:
            group.first(lambda: print(json.dumps(config.to_json(), indent=1)))
            return
        piece, out = prepared(args, group)
        source = open_source(args, config, piece, group)
        task = group.together(lambda: ClassifyTask(config, source.frame, fit_stretch(source, config), resolve_device(args.device)))
        with StopSignals(quiet=not group.leads) as stop:
            result = train(task, source, out, stop, after=lambda folder, step: curves.write(out), piece=piece, ranks=group)
    if group.leads:  # nobody waits for this
        report(args, config, result)


def report(args: argparse.Namespace, config: Config, result: Result) -> None:
    """Ships what is asked for, and prints the run's facts with its rates on galaxies it has not seen."""
    model = result.checkpoint if args.ship is None else ship.ship(args.ship, result, args.words)
    facts: dict[str, object] = {"run": str(result.run), "model": str(model), "steps": result.steps, "loss": result.loss}
    if args.simulate is not None:
        found = held_out(model, populations(args), args.data_seed + 1, args.held_out, config.model.image_size)
        facts["held_out"] = {name: given for name, (given, _) in found.items()}
        facts["calibration"] = {name: calibrated for name, (_, calibrated) in found.items()}
    print(json.dumps(facts, indent=None if args.json else 1))


def held_out(
    model: Path, presets: list[str], seed: int, n: int, size: int
) -> dict[str, tuple[dict[str, tuple[float, int]], dict[str, Any]]]:
    """The classifier's rate for each answer, and its calibration, on simulated galaxies of another seed, by population."""
    from galaxysd.simulate.survey import frame, simulate

    judge = load_judge(model)
    found = {}
    for name in presets:
        galaxies, stamps = simulate(name, seed, range(n), size), frame(name, size)
        calibrated = calibration(judge.fractions(galaxies, stamps), galaxies.counts, judge.labels)
        found[name] = rates(judge, galaxies, stamps), {key: calibrated[key] for key in ("expected_calibration_error", "by_question")}
    return found
