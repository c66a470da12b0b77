#!/usr/bin/env python3
"""Runs a bundle of galaxysd on a machine that has neither galaxysd nor torch: numpy, onnxruntime and Pillow are enough.

    python run_bundle.py BUNDLE                      checks the bundle against its goldens, then draws 16 galaxies
    python run_bundle.py BUNDLE --ask "edge-on" --n 100000 --seed 3 --out SET
    python run_bundle.py CLASSIFIER --images SET --out VOTES

Galaxy i of a seed is the galaxy that `galaxysd sample` draws, up to rounding. Any number is drawn or classified in constant memory.
Exit codes: 0 ok, 1 a bug of ours, 2 usage or bad input, 4 something missing on this machine.
"""

from __future__ import annotations

import sys
import time

BEGAN = time.perf_counter()
sys.dont_write_bytecode = True  # a bundle holds what its record names, and nothing else

import argparse  # noqa: E402
import csv  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

try:
    import numpy as np
    import onnxruntime
except ModuleNotFoundError as missing:
    print(f"run_bundle: {missing.name} is not installed; pip install -r requirements.txt", file=sys.stderr)
    sys.exit(4)

from bundle_asking import Tree, asked_numbers  # noqa: E402
from bundle_drawing import Stretch, View, batches, by_steps, heun, normal  # noqa: E402
from bundle_opening import Bundle, Refused, keeps_weights_elsewhere  # noqa: E402
from bundle_reading import images_of, plain_arrays  # noqa: E402
from bundle_writing import Parts, Pictures  # noqa: E402

NOT_FINITE = sys.float_info.max  # the error of an output that is not finite: JSON has no word for infinity
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Graph:
    """One graph of a bundle in onnxruntime, on the provider asked for and no other."""

    def __init__(self, bundle: Bundle, unit: str, provider: str, threads: int) -> None:
        entry = bundle.about["graphs"][unit]
        name, content = entry["file"], bundle.bytes(entry["file"])
        self.path = bundle.folder / name
        try:
            elsewhere = keeps_weights_elsewhere(content)
        except ValueError as error:
            raise Refused(f"{self.path}: not an ONNX graph ({error})") from error
        if elsewhere:
            raise Refused(f"{self.path}: keeps weights in other files; a bundle's graphs hold their own")
        self.outputs: list[str] = entry["outputs"]
        self.inputs: list[str] = entry["inputs"]
        wanted = PROVIDERS[provider]
        if wanted not in onnxruntime.get_available_providers():
            have = ", ".join(onnxruntime.get_available_providers())
            raise Refused(f"--provider {provider}: this onnxruntime has no {wanted} (it has {have}); install the one that does", code=4)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=[wanted])
        except Exception as error:
            raise Refused(f"{self.path}: {wanted} cannot run it ({str(error).splitlines()[0]})", code=4) from error
        self.session.disable_fallback()
        self.provider = self.session.get_providers()[0]
        if self.provider != wanted:
            raise Refused(f"{self.path}: runs on {self.provider}, {wanted} was asked for; is its driver there?", code=4)

    def __call__(self, *arrays: np.ndarray) -> Any:
        given = dict(zip(self.inputs, (each.astype(np.float32) for each in arrays), strict=True))
        try:
            found = self.session.run(self.outputs, given)
        except Exception as error:
            raise Refused(f"{self.path}: {self.provider} cannot run it ({str(error).splitlines()[0]})") from error
        return found[0] if len(found) == 1 else found


def error(got: np.ndarray, want: np.ndarray, measure: str) -> float:
    """How far the worst row of `got` is from `want`: its largest difference over the row's spread, or the norm of it over the row's.

    Row by row, so that one of large values hides nothing of the others; a row that says next to nothing counts as one of spread 0.1.
    """
    rows = want.reshape(len(want), -1).astype(np.float64)
    difference = got.reshape(rows.shape).astype(np.float64) - rows
    if not np.isfinite(difference).all():
        return NOT_FINITE
    if measure == "largest":
        return float((np.abs(difference).max(1) / np.maximum(rows.std(1), 0.1)).max())
    return float(np.sqrt((difference**2).mean(1) / np.maximum((rows**2).mean(1), 0.01)).max())


class Check:
    """Runs a bundle's graphs on its goldens, which torch made, and keeps how far they part."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.limit = bundle, bundle.about["tolerance"]
        self.cases: list[dict[str, Any]] = []
        self.goldens = plain_arrays(io.BytesIO(bundle.bytes("goldens.npz")), bundle.folder / "goldens.npz")

    def rows(self, *names: str) -> list[np.ndarray]:
        if lacking := sorted(set(names) - self.goldens.keys()):
            raise Refused(f"{self.bundle.folder}/goldens.npz: lacks {lacking[0]}; export the bundle again")
        return [self.goldens[name] for name in names]

    def case(self, unit: str, what: str, got: np.ndarray, want: np.ndarray, measure: str | None = None) -> None:
        part = error(got, want, measure or self.limit["measure"])
        found = {"unit": unit, "what": what, "batch": len(want), "error": part, "output_std": float(want.std())}
        self.cases.append({**found, "passed": part <= self.limit["limit"]})

    def calls(self, unit: str, graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Single calls at several batch sizes: the goldens' rows know nothing of one another."""
        given, wanted = self.rows(*inputs), self.rows(*outputs)
        for size in self.bundle.about["batches"]:
            got = graph(*(each[-size:] for each in given))
            for name, mine, theirs in zip(outputs, [got] if len(outputs) == 1 else got, wanted, strict=True):
                self.case(unit, name, mine, theirs[-size:])

    def view(self, view: View) -> np.ndarray:
        """What each request is to the network; gives the features."""
        counts, numeric, features = self.rows("asked_counts", "asked_numeric", "features")
        mine = view.encode(counts, numeric)
        self.case("denoiser", "features", mine, features, "largest")
        return mine

    def images(self, unit: str, draw: Any, features: np.ndarray, n: int | None = None) -> None:
        """The last n whole images: requests and a seed through noise, solver, network and stretch."""
        drawn, pixels, index, seed = self.rows("drawn", "pixels", "index", "seed")
        rows = slice(0 if n is None else len(drawn) - n, len(drawn))
        got = draw(features[rows], index[rows].tolist(), int(seed))
        self.case(unit, "images", got, drawn[rows])
        stretch = Stretch(self.bundle.about["stretch"])
        # In model space again, where a bright pixel weighs no more than a faint one.
        self.case(unit, "pixels", stretch.forward(stretch.inverse(got)), stretch.forward(pixels[rows]))

    def verdict(self) -> str:
        return "passed" if self.cases and all(case["passed"] for case in self.cases) else "failed"

    def worst(self) -> dict[str, Any]:
        return max(self.cases, key=lambda case: case["error"])


class Model:
    """A bundle ready to draw from: the denoiser's graph under our own small solver."""

    def __init__(self, bundle: Bundle, provider: str, threads: int) -> None:
        about = bundle.about
        self.bundle, self.frame, self.sampling = bundle, about["frame"], dict(about["sampling"])
        self.labels = bundle.labels()
        self.view, self.stretch = View(self.labels, about["conditions"]), Stretch(about["stretch"])
        self.graph = Graph(bundle, "denoiser", provider, threads)
        self.provider, self.threads = provider, threads
        self.shape = (len(self.frame["bands"]), self.frame["size"], self.frame["size"])

    def noise(self, index: Sequence[int], seed: int) -> np.ndarray:
        return normal(seed, "sample", index, self.shape) * np.float32(self.sampling["sigma_max"])

    def draw(self, features: np.ndarray, index: Sequence[int], seed: int) -> np.ndarray:
        """Images in model space."""
        return heun(self.graph, self.noise(index, seed), features, self.sampling, self.sampling["steps"])

    def check(self, full: bool) -> Check:
        """Against the goldens; `full` also the graph that is a whole step, by itself and over whole images."""
        found = Check(self.bundle)
        found.calls("denoiser", self.graph, ("x", "sigma", "features"), ("x0",))
        features = found.view(self.view)
        found.images("denoiser", self.draw, features)
        if full:
            step = Graph(self.bundle, "step", self.provider, self.threads)
            found.calls("step", step, ("x", "sigma", "after", "features", "strength", "strength_after"), ("ahead",))
            steps = self.sampling["steps"]
            found.images("step", lambda f, i, s: by_steps(step, self.noise(i, s), f, self.sampling, steps), features, n=1)
        return found


class Classifier:
    """A bundle ready to look at galaxies."""

    outputs = ("fractions", "concentrations", "embedding")

    def __init__(self, bundle: Bundle, provider: str, threads: int) -> None:
        self.bundle, self.frame = bundle, bundle.about["frame"]
        self.answers = [f"{each['name']}_{answer}" for each in bundle.labels()["questions"] for answer in each["answers"]]
        self.graph = Graph(bundle, "classifier", provider, threads)

    def check(self, full: bool) -> Check:
        found = Check(self.bundle)
        found.calls("classifier", self.graph, ("images",), self.outputs)
        return found

    def prepare(self, images: np.ndarray, first: int) -> np.ndarray:
        """Images of the size the classifier looks at: larger ones are summed in whole blocks of pixels, which keeps their flux."""
        bands, size, flux = len(self.frame["bands"]), self.frame["size"], self.frame["kind"] == "flux"
        if images.ndim != 4 or images.shape[1] != bands or images.shape[2] != images.shape[3]:
            raise Refused(
                f"--images: shape {list(images.shape)}, [N, {bands}, {size}, {size}] expected, bands {'/'.join(self.frame['bands'])}"
            )
        if not np.issubdtype(images.dtype, np.floating) if flux else images.dtype != np.uint8:
            raise Refused(f"--images: {images.dtype}, {'float32 nanomaggies a pixel' if flux else 'uint8 colour'} expected")
        factor, rest = divmod(images.shape[-1], size)
        if rest or factor < 1:
            raise Refused(f"--images: {images.shape[-1]} pixels on a side, {size} or a whole multiple expected")
        images = images.astype(np.float32)
        finite = np.isfinite(images).reshape(len(images), -1).all(1)
        if not finite.all():
            raise Refused(f"--images: galaxy {first + int(np.argmin(finite))} has pixels that are NaN or infinite; leave it out or mend it")
        if factor > 1:
            blocks = images.reshape(len(images), bands, size, factor, size, factor)
            images = blocks.sum((3, 5)) if flux else blocks.mean((3, 5))
        return images


def asked(args: argparse.Namespace, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The condition asked for: counts [1, A] and numbers [1, N]; what was filled in is said."""
    tree = Tree(model.labels)
    counts, filled = np.zeros((1, len(tree.answers)), np.float32), list[str]()
    if args.votes is not None:
        counts, filled = tree.votes(args.votes, args.voters)
    elif args.ask is not None:
        counts, filled = tree.ask(args.ask, args.voters)
    for line in filled:
        print(line, file=sys.stderr)
    return counts, asked_numbers(args.numbers, model.view.numeric)


def draw(args: argparse.Namespace, model: Model, out: Path) -> dict[str, Any]:
    """Draws into `out`: parts of 1024 galaxies as npz, the first ones also as PNG."""
    counts, numeric = asked(args, model)
    features = model.view.encode(counts, numeric)
    shown, seconds, began = Pictures(out, model.frame, args.png), dict[str, float](), time.perf_counter()
    with Parts(out, "galaxies", args.first, asked_counts=counts[0], asked_numeric=numeric[0], seed=np.int64(args.seed)) as parts:
        for index in batches(args.first, args.n, args.batch):
            images = model.stretch.inverse(model.draw(np.repeat(features, len(index), 0), index, args.seed))
            if not np.isfinite(images).all():
                raise Refused(f"{model.bundle.folder}: draws pixels that are not finite; take more --steps or less --guidance")
            shown.add(index, images)
            parts.add(images=images, index=np.array(index))
            seconds.setdefault("first_galaxy", time.perf_counter() - BEGAN)
    seconds |= {"drawing": time.perf_counter() - began, "all": time.perf_counter() - BEGAN}
    shown.sheet()
    return {"drawn": args.n, "out": str(out), "seconds": {name: round(each, 3) for name, each in seconds.items()}}


def classify(args: argparse.Namespace, model: Classifier, out: Path) -> dict[str, Any]:
    """Classifies into `out`: votes.csv, and everything in parts as npz."""
    rows = 0
    with (out / "votes.csv").open("x", newline="") as file, Parts(out, "votes", 0) as parts:
        table = csv.writer(file)
        table.writerow(["row", *model.answers])
        for images in images_of(args.images, args.batch):
            found = model.graph(model.prepare(images, rows))
            table.writerows([rows + k, *(f"{value:.6g}" for value in each)] for k, each in enumerate(found[0]))
            parts.add(**dict(zip(model.outputs, found, strict=True)))
            rows += len(images)
    if not rows:
        raise Refused(f"--images {args.images}: holds no galaxies")
    return {"classified": rows, "out": str(out)}


def folder(args: argparse.Namespace) -> Path:
    """The folder of results: new or empty, and never inside the bundle."""
    out: Path = args.out
    if out.resolve().is_relative_to(args.bundle.resolve()):
        raise Refused(f"--out {out}: inside the bundle, which must stay what its record says; give another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"--out {out}: already there, and nothing is overwritten; give a folder that does not exist yet")
    out.mkdir(parents=True, exist_ok=True)
    return out


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--check", action="store_true", help="check every unit against the goldens, and do nothing else")
    parser.add_argument("--n", type=int, default=16, help="galaxies to draw (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first galaxy (%(default)s)")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--ask", metavar="WORDS", help='answers by name, for example "barred spiral, 2 arms"')
    asked.add_argument("--votes", metavar="ANSWER=FRACTION,...", help="conditional vote fractions")
    parser.add_argument("--voters", type=float, default=40.0, help="how many volunteers the votes stand for (%(default)g)")
    parser.add_argument("--numbers", metavar="NAME=VALUE,...", help="for example magnitude=16.5")
    parser.add_argument("--steps", type=int, help="of the solver (the bundle's)")
    parser.add_argument("--guidance", type=float, help="1 is none (the bundle's)")
    parser.add_argument("--png", type=int, default=16, help="how many galaxies are also written as PNG (%(default)s)")
    parser.add_argument("--images", type=Path, metavar="FILE", help="what a classifier looks at: .npy, .npz, .parquet, .fits, or a folder")
    parser.add_argument("--batch", type=int, default=4, help="galaxies in flight (%(default)s)")
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help="of onnxruntime; another one is never taken instead")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves it to onnxruntime")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("galaxies"), help="a new folder (%(default)s)")
    args = parser.parse_args(words)
    for name, least in (("n", 1), ("first", 0), ("batch", 1), ("steps", 1), ("png", 0), ("threads", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            raise Refused(f"--{name} {value}: at least {least}")
    if abs(args.seed) >= 1 << 63:
        raise Refused(f"--seed {args.seed}: seeds lie between -2^63 and 2^63")
    if args.first + args.n > 1 << 62 or (args.guidance is not None and not math.isfinite(args.guidance)):
        raise Refused(f"--first {args.first}, --guidance {args.guidance}: indices end at 2^62, and a finite strength is needed")
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    bundle = Bundle(args.bundle)
    bundle.passed()
    model = (Model if bundle.kind == "denoiser" else Classifier)(bundle, args.provider, args.threads)
    if isinstance(model, Model) and args.images is not None:
        raise Refused("--images: this bundle draws galaxies; give the bundle of a classifier")
    out = None if args.check or (isinstance(model, Classifier) and args.images is None) else folder(args)
    check = model.check(full=args.check)
    found = {
        "verdict": check.verdict(), "provider": model.graph.provider, "onnxruntime": onnxruntime.__version__,
        "tolerance": check.limit, "cases": check.cases,
    }  # fmt: skip
    if args.check:
        return found
    if found["verdict"] != "passed":
        worst = check.worst()
        raise Refused(
            f"{args.bundle}: {worst['what']} of {worst['unit']} part from the goldens by {worst['error']:.1e}, "
            f"{check.limit['limit']:.0e} allowed; on this machine the bundle is not the model"
        )
    if out is None:
        return found
    if isinstance(model, Classifier):
        return found | classify(args, model, out)
    changes = {"steps": args.steps, "guidance": args.guidance}
    model.sampling |= {name: value for name, value in changes.items() if value is not None}
    return found | draw(args, model, out)


def lines(found: dict[str, Any]) -> Iterator[str]:
    worst = max(found["cases"], key=lambda case: case["error"])
    yield (
        f"checked by {found['provider']}: {found['verdict']}, {len(found['cases'])} cases, at most {worst['error']:.1e} "
        f"({worst['what']} of {worst['unit']}), {found['tolerance']['limit']:.0e} allowed"
    )
    if "drawn" in found:
        yield f"{found['drawn']} galaxies in {found['out']}, the first after {found['seconds']['first_galaxy']:.2f} s"
    if "classified" in found:
        yield f"{found['classified']} galaxies classified: {found['out']}/votes.csv"


def main(words: Sequence[str] | None = None) -> int:
    try:
        args = arguments(words)
        found = run(args)
    except Refused as refused:
        print(f"run_bundle: {refused}", file=sys.stderr)
        return refused.code
    except ModuleNotFoundError as missing:  # Pillow, which only drawing needs
        print(f"run_bundle: {missing.name} is not installed; pip install -r requirements.txt", file=sys.stderr)
        return 4
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"run_bundle: {error}", file=sys.stderr)
        return 4
    print(*([json.dumps(found)] if args.json else lines(found)), sep="\n")
    return 0 if found["verdict"] == "passed" else 2


if __name__ == "__main__":
    sys.exit(main())
