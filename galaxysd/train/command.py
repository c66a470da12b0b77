"""`galaxysd train`, also `python -m galaxysd.train`: trains a generator on a set, or on galaxies simulated as they are needed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import torch

from galaxysd import config as configs
from galaxysd.config import Config
from galaxysd.data import readers, transforms
from galaxysd.data.mixed import Mixed
from galaxysd.data.readers import Source
from galaxysd.data.schema import schema, with_class
from galaxysd.diffusion.denoiser import resolve_device
from galaxysd.distributed import ALONE, Ranks, ranks
from galaxysd.errors import GalaxySDError
from galaxysd.runlog import StopSignals
from galaxysd.train import curves, finetune, grid, plan, ship
from galaxysd.train.denoise import DenoiseTask
from galaxysd.train.loop import Piece, Result, train

PRESET = "smoke-32"
FIT_ROWS = 2048  # galaxies the stretch is fitted on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", help=f"one of {', '.join(configs.presets())} ({PRESET})")
    parser.add_argument("--from", dest="start", metavar="MODEL", help="go on from a trained model, with its network, on other galaxies")
    parser.add_argument(
        "--new-answer", metavar="NAME", help="the galaxies of --data are of a class of your own, which `sample --ask NAME` draws"
    )
    parser.add_argument(
        "--rehearse", type=Path, metavar="SET", help="with --from: galaxies that MODEL knows (simulated again, if it learned from such)"
    )
    parser.add_argument(
        "--rehearsal", type=float, default=0.5, metavar="SHARE", help="of such galaxies in what is trained on (%(default)s)"
    )
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What training a generator and training a classifier have in common."""
    parser.add_argument("--config", type=Path, help="a TOML file of settings, read after the preset")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="one setting, read last; may be repeated")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, help="a set to train on")
    source.add_argument("--simulate", metavar="PRESET,...", help="train on simulated galaxies, rendered while it trains")
    source.add_argument(
        "--real-data",
        type=Path,
        metavar="PATH",
        help="train on a Parquet table of JPEG or PNG bytes, imported once into --keep",
    )
    parser.add_argument("--n", type=int, default=16_384, help="with --simulate: how many galaxies of each preset (%(default)s)")
    parser.add_argument("--data-seed", type=int, default=1, help="with --simulate: their seed (%(default)s)")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="with --simulate: render once, by every core, into this folder, and read there; with --real-data: import there",
    )
    parser.add_argument("--steps", type=int, help="stop after so many steps")
    parser.add_argument("--images", type=int, help="stop after so many images seen")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes")
    parser.add_argument(
        "--piece", type=float, default=0.0, metavar="MINUTES", help="stop this call after so many minutes; the same command goes on"
    )
    ship.add_arguments(parser)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and what it costs; start nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)


def run(args: argparse.Namespace) -> None:
    with ranks(args.device) as group:
        config, device = group.together(lambda: (resolve(args), resolve_device(args.device)))
        if args.dry_run:
            group.first(lambda: _dry_run(config, device, args.json))
            return
        piece, out = prepared(args, group)
        group.together(lambda: plan.check_memory(plan.plan(config, device, group.world), config, device))
        mine = open_source(args, config, piece, group)
        task, source, watch = group.together(lambda: begun(args, config, mine, device, group.leads))

        def after(folder: Path, step: int) -> None:
            curves.write(out)
            grid.write(out, folder, step, (*([] if args.new_answer is None else [args.new_answer]), *grid.ROWS))
            if watch is not None:
                print(watch.look(out, folder, step), flush=True)

        with StopSignals(quiet=not group.leads) as stop:
            result = train(task, source, out, stop, after=after, piece=piece, ranks=group)
    if group.leads:  # nobody waits for this
        shipped = None if args.ship is None else ship.ship(args.ship, result, args.words)
        report(result, args.json, shipped)


def _dry_run(config: Config, device: torch.device, as_json: bool) -> None:
    found = plan.plan(config, device)
    print(json.dumps({"plan": found, "config": config.to_json()}, indent=1) if as_json else f"{plan.words(found)}\n\n{_toml(config)}")


def prepared(args: argparse.Namespace, group: Ranks) -> tuple[Piece, Path]:
    """This call's share of the run, which begins now, and its folder; what could be refused after hours is refused here."""
    group.first(lambda: ship.check(args.ship))
    return group.together(lambda: (Piece(args.piece), require_out(args)))


def begun(
    args: argparse.Namespace, config: Config, mine: Source, device: torch.device, leads: bool
) -> tuple[DenoiseTask, Source, finetune.Watch | None]:
    """What is trained and on what, and with --from who looks at it on the way; only a rank that leads says anything."""
    name = config.condition.schema
    if args.start is None:
        source = mine if args.new_answer is None else finetune.mixture(mine, None, 0.0, name, args.new_answer)
        return DenoiseTask(config, source.frame, fit_stretch(source, config), device), source, None
    start = finetune.start(args.start)
    said = finetune.check_frame(start, mine.frame)
    known = readers.open_set(args.rehearse) if args.rehearse is not None else finetune.simulated(start, config.model.image_size)
    if known is None and args.rehearsal:
        said.append(f"what {args.start} was trained on is not at hand, so nothing is rehearsed and it may forget; give --rehearse SET")
    for each in said if leads else ():
        print(f"galaxysd: {each}", file=sys.stderr)
    source = finetune.mixture(mine, known, args.rehearsal, name, args.new_answer)
    task = DenoiseTask(config, source.frame, start.found.stretch, device, finetune.weights(start, name), start.origin())
    return task, source, finetune.Watch(mine, args.new_answer) if leads else None


def resolve(args: argparse.Namespace) -> Config:
    """The config of these arguments: preset, or the model of --from < --config < --set < --steps, --images, --minutes."""
    limits = {name: getattr(args, name) for name in ("steps", "images", "minutes") if getattr(args, name) is not None}
    start, answer = getattr(args, "start", None), getattr(args, "new_answer", None)
    if start is not None:
        if args.preset is not None:
            raise GalaxySDError(f"--preset {args.preset} and --from {start}: a model says itself what it is; drop --preset")
        config = finetune.config(finetune.start(start), args.config, args.set, answer, limits)
    else:
        config = configs.load(args.preset or PRESET, args.config, args.set)
        if answer is not None:
            labels = with_class(schema(config.condition.schema), answer).name
            config = dataclasses.replace(config, condition=dataclasses.replace(config.condition, schema=labels))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **limits))
    configs.check(config)
    return config


def open_source(args: argparse.Namespace, config: Config, piece: Piece | None = None, group: Ranks = ALONE) -> Source:
    """The galaxies to train on; what is to be kept is rendered by the first rank, and the others wait for it."""
    return group.in_turn(lambda: _open_source(args, config, piece, group.leads))


def _open_source(args: argparse.Namespace, config: Config, piece: Piece | None, render: bool) -> Source:
    if args.real_data is not None:
        if args.keep is None:
            raise GalaxySDError(f"--real-data {args.real_data}: becomes a set first; say where it is kept: --keep FOLDER")
        from galaxysd.data import real

        return real.imported(args.real_data, config.model.image_size, args.keep)
    if args.keep is not None and args.simulate is None:
        raise GalaxySDError(f"--keep {args.keep}: keeps what --simulate renders, and nothing is simulated; leave it out")
    if args.data is not None:
        return readers.open_set(args.data)
    if args.simulate is None:
        raise GalaxySDError("nothing to train on: give --data SET, or --simulate PRESET (tutorial, survey), or --real-data TABLE")
    if args.n < 1:
        raise GalaxySDError(f"--n {args.n}: give at least 1")
    from galaxysd.simulate.survey import SimulatedSource

    sources: list[Source] = []
    for name in populations(args):
        source = SimulatedSource(name, args.data_seed, 0, args.n, config.model.image_size)
        if args.keep is None:
            sources.append(dataclasses.replace(source, device=args.device))  # where it trains; what is kept is rendered by all cores
            continue
        from galaxysd.train.render import rendered

        sources.append(rendered(source, args.keep / f"{name}-{args.data_seed}-{config.model.image_size}", piece, render))
    return sources[0] if len(sources) == 1 else Mixed(sources)


def populations(args: argparse.Namespace) -> list[str]:
    """The presets of --simulate."""
    return [name.strip() for name in args.simulate.split(",")]


def fit_stretch(source: Source, config: Config) -> transforms.Stretch:
    """The stretch of a set, fitted on its first galaxies: the same for every run on it."""
    parts, rows = [], 0
    for number in range(len(source.chunk_rows)):
        parts.append(source.load(number).images)
        rows += len(parts[-1])
        if rows >= FIT_ROWS:
            break
    return transforms.Stretch.fit(source.frame, torch.cat(parts), config.diffusion.sigma_data)


def report(result: Result, as_json: bool, shipped: Path | None = None) -> None:
    facts: dict[str, object] = {
        "run": str(result.run),
        "checkpoint": str(result.checkpoint),
        "steps": result.steps,
        "images": result.images,
        "seconds": round(result.seconds, 1),
        "loss": result.loss,
        **result.spent.to_json(),
    }
    if shipped is not None:
        facts |= {"model": str(shipped), "bytes": shipped.stat().st_size}
    if as_json:
        print(json.dumps(facts))
    else:
        rate = result.images / max(result.seconds, 1e-9)
        print(f"trained {result.steps} steps, {result.images} images ({rate:.0f} img/s), loss {result.loss:.3f}: {result.checkpoint}")
        if shipped is not None:
            print(f"shipped {shipped.stat().st_size} bytes: {shipped}")


def require_out(args: argparse.Namespace) -> Path:
    """The --out of these arguments."""
    if args.out is None:
        raise GalaxySDError("--out: give the folder of the run")
    out: Path = args.out
    return out


def _toml(config: Config) -> str:
    lines = [f"name = {json.dumps(config.name)}"]
    for section, values in config.to_json().items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    return "\n".join(lines)
