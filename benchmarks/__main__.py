"""`python -m benchmarks <verb>`: the front door of everything measured. Needs torch, triton, numpy, safetensors and pyarrow alone.

Exit codes are those of the command line: 0 ok, 1 a check failed (or a bug of ours), 2 usage, 4 something of this machine is missing.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from galaxysd.errors import GalaxySDError

# verb -> (module, what it does)
VERBS = {
    "kernels": ("benchmarks.kernels", "check each kernel of a preset's step, then time it beside its peers; appends rows"),
    "status": ("benchmarks.status", "which kernels changed since a GPU last measured them"),
    "check": (
        "benchmarks.check",
        "measure again and compare with the committed rows; exits 1 when a kernel or a step became slower, or a goal is missed",
    ),
    "report": ("benchmarks.report", "plots, and the README's table, from the committed rows"),
    "compile": ("benchmarks.compiling", "compile every launch row for its card: registers, spills, loads, shared memory; needs no GPU"),
    "gpu": ("benchmarks.gpu", "everything a GPU machine should do, in a few minutes; goes on where it stopped"),
    "votes": ("benchmarks.votes", "how the simulated volunteers answer on average, beside a real table's counts where one is given"),
    "classes": ("benchmarks.classes", "how often a model draws the class it is asked for, beside the judge's own rate; a sheet of them"),
    "ablations": (
        "benchmarks.ablations",
        "train demo-32's preset with one thing changed at a time, and score it; goes on where it stopped",
    ),
    "finetune": ("benchmarks.finetune", "tune a model on a few galaxies of a new class, one setting changed at a time; and train anew"),
    "train": ("benchmarks.pace", "a whole train step beside plain modules, diffusers, and its convolutions alone; appends a row"),
    "sample": ("benchmarks.pace", "a sampled unit beside the same"),
    "presets": ("benchmarks.presets", "what each preset is and costs, and the rates that a card's measured ceilings promise"),
    "steps": (
        "benchmarks.steps",
        "what fewer evaluations cost a model: solvers, steps and guidance intervals; goes on where it stopped",
    ),
    "judge": ("benchmarks.judge", "plant every fault in simulated sets and see which the evaluation notices; its pace"),
    "card": ("benchmarks.card", "write the page of a model: data, command, time, scores, limits"),
    "tune": ("benchmarks.tune", "search the launch tables on this card"),
}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    words = sys.argv[1:] if words is None else words
    for verb, (module, about) in VERBS.items():
        each = verbs.add_parser(verb, help=about, description=about)
        if verb in words[:1]:  # the others need not be imported
            importlib.import_module(module).add_arguments(each)
    args = parser.parse_args(words)
    try:
        found: int = importlib.import_module(VERBS[args.verb][0]).run(args)
    except GalaxySDError as error:
        print(f"benchmarks {args.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return found


if __name__ == "__main__":
    sys.exit(main())
