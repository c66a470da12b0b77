"""The command line: one command, its verbs, and what each kind of failure looks like and exits with.

A verb's module is imported when that verb is named, and only then: `galaxysd --help` waits for nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from galaxysd import __version__, files
from galaxysd.errors import GalaxySDError, Stopped, Unavailable, nearest

# verb -> (module with add_arguments(parser) and run(args), what it does)
VERBS: dict[str, tuple[str, str]] = {
    "doctor": ("galaxysd.doctor", "say what works on this machine, and what to do about what does not"),
    "demo": ("galaxysd.demo", "the whole story in a few minutes: simulate, train, sample, evaluate, export, a page to look at"),
    "simulate": ("galaxysd.simulate.command", "make a set of simulated galaxies with votes and exact truth"),
    "data": ("galaxysd.data.command", "bring other people's tables into a set"),
    "train": ("galaxysd.train.command", "train a generator on a set or on the simulated survey; the same command resumes"),
    "sample": ("galaxysd.sample.command", "generate galaxies by votes, by answer names, or like the rows of a table"),
    "evaluate": ("galaxysd.evaluate.command", "compare a generated set with real or simulated galaxies"),
    "classify train": ("galaxysd.train.classify_command", "train a classifier on the votes of a set"),
    "classify predict": ("galaxysd.classify", "let a classifier answer the questions about each galaxy of a set"),
    "jobs plan": ("galaxysd.jobs.planning", "fix everything a bulk job's bytes depend on, and say what it will cost"),
    "jobs run": ("galaxysd.jobs.run", "make the shards that are missing; killed or stopped, the same command goes on"),
    "jobs status": ("galaxysd.jobs.status", "say how far a job is; reads only"),
    "jobs finalize": ("galaxysd.jobs.finalize", "verify every digest of a job, write its manifest and its card"),
    "jobs regenerate": ("galaxysd.jobs.regenerate", "draw any galaxies of a job again, to the same bytes"),
    "export": ("galaxysd.export.command", "write a model for machines without galaxysd"),
    "gallery": ("galaxysd.gallery.command", "make one self-contained page of a set"),
}

GROUPS = {
    "classify": "train the classifier of morphologies, or let it answer",
    "jobs": "sample or scan in bulk: planned, run, finished, and any of it made again",
}

# module -> what brings it: said when it is missing, whichever verb wanted it
BROUGHT_BY = {
    **dict.fromkeys(("torch", "numpy", "safetensors", "pyarrow", "triton"), "galaxysd"),
    **dict.fromkeys(("PIL", "astropy", "tqdm"), "galaxysd[data]"),
    **dict.fromkeys(("matplotlib", "scipy", "photutils", "statmorph"), "galaxysd[eval]"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "galaxysd[export]"),
    "ray": "galaxysd[jobs]",
    "tensorrt": "galaxysd[trt]",
    "timm": "galaxysd[encoders]",
}


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and answers a typo with the nearest name."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)

    def error(self, message: str) -> NoReturn:
        raise GalaxySDError(f"{self.prog.partition(' ')[2]}: {message}".removeprefix(": ") + f"; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        # Each level refuses what it does not know, so that the suggestion comes from the options of that very verb.
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            options = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(f"{word}: no such option{nearest(word, options)}" if word.startswith("-") else f"{word}: one word too many")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            raise argparse.ArgumentError(None, f"{name}: no such choice {value!r}{nearest(str(value), map(str, action.choices))}")


def main(argv: Sequence[str] | None = None, verb: str | None = None) -> int:
    """Runs the command line and gives its exit code; with `verb`, the words after that verb."""
    words = list(sys.argv[1:] if argv is None else argv)
    if verb is not None:
        words.insert(0, verb)
    try:
        with _terminable():
            code = _run(words)
        sys.stdout.flush()  # here, so that a reader who has gone is noticed while we can still be quiet about it
    except GalaxySDError as error:
        if not error.told:
            print(f"galaxysd: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in BROUGHT_BY:
            raise
        print(f"galaxysd: {package} is not installed; pip install '{BROUGHT_BY[package]}'", file=sys.stderr)
        return Unavailable.exit_code
    except KeyboardInterrupt:
        print("\ngalaxysd: interrupted; everything committed so far is whole", file=sys.stderr)
        return Stopped.exit_code
    except BrokenPipeError:
        _silence()
        return 128 + signal.SIGPIPE
    except OSError as error:
        found = files.told(error, error.filename or "the output")
        if found is None:
            raise
        if error.filename is None:
            _silence()
        print(f"galaxysd: {found}", file=sys.stderr)
        return found.exit_code
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    return code


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM stops a verb as Ctrl-C does, also before it listens for signals itself or where it never does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _silence() -> None:
    """Python flushes stdout once more on its way out: lets that go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def export_main() -> int:
    """`galaxysd-export`: the verb export under its own name."""
    return main(verb="export")


def _run(words: list[str]) -> int:
    top = Parser(
        prog="galaxysd",
        description="Learns galaxies from volunteers' votes and generates labelled galaxy images.",
        epilog="Each verb explains itself: galaxysd VERB --help. Exit codes: 0 ok, 1 a bug of ours, 2 usage or bad input, "
        "3 a folder of another run, 4 something missing on this machine, 75 stopped cleanly (the same command goes on).",
    )
    top.add_argument("--version", action="version", version=f"galaxysd {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    groups = {
        name: verbs.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".").add_subparsers(metavar="VERB", required=True)
        for name, does in GROUPS.items()
    }
    plain = [word for word in words if not word.startswith("-")]
    run = None
    for verb, (module, does) in VERBS.items():
        group, _, name = verb.rpartition(" ")
        parser = groups.get(group, verbs).add_parser(name, help=does, description=does[0].upper() + does[1:] + ".")
        if plain[: verb.count(" ") + 1] == verb.split():
            loaded = importlib.import_module(module)
            loaded.add_arguments(parser)
            run = loaded.run
    args = top.parse_args(words)
    args.words = tuple(words)  # a model's card says by which command it was made
    assert run is not None, "argparse accepts no verb that is not in the table"
    code: int | None = run(args)
    return code or 0
