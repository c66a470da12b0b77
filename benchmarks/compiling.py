"""`python -m benchmarks compile`: the compile gate as a table. Triton's wheel carries the assemblers, so no GPU is needed."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

from benchmarks import gate
from galaxysd.errors import BadInput, GalaxySDError, Unavailable
from galaxysd.kernels import launching

HOW = "run it without TRITON_INTERPRET: env -u TRITON_INTERPRET python -m benchmarks compile"


class Faulty(GalaxySDError):
    """A launch row that does not compile to what it should."""

    exit_code = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--capability", type=int, action="append", metavar="NN", help="90 for 9.0; may be given again (all that have rows)")
    parser.add_argument("--forms", choices=("few", "all"), default="few", help="few: each row once, in its heaviest form; all: every form")
    parser.add_argument("--dtype", choices=tuple(gate.DTYPES), action="append", help="rows of this dtype alone; may be given again (all)")
    parser.add_argument("--workers", type=int, default=2, help="processes that compile")
    parser.add_argument("--json", action="store_true", help="print results and faults as JSON")


def run(args: argparse.Namespace) -> int:
    if not launching.triton.__version__:
        raise Unavailable("Triton is not installed; there is nothing to compile with: pip install triton")
    if launching.INTERPRETED:
        raise Unavailable(f"TRITON_INTERPRET is set, and kernels of such a process cannot be compiled; {HOW}")
    known = launching.capabilities()
    wanted = args.capability or known
    for each in wanted:
        if each not in known:
            raise BadInput(f"--capability {each}: the launch tables have no rows for it; they have {', '.join(map(str, known))}")
    began = time.perf_counter()
    found = gate.gate(wanted, args.forms, args.workers, args.dtype or tuple(gate.DTYPES))
    if args.json:
        results = [asdict(each) | {"faults": each.faults} for each in found.results]
        print(json.dumps({"triton": launching.triton.__version__, "results": results, "faults": found.faults}, indent=1))
    else:
        print(*gate.table(found.results), *found.faults, sep="\n", flush=True)
    if found.faults:
        raise Faulty(f"{len(found.faults)} faults")
    if not args.json:
        cards = ", ".join(f"sm_{each}" for each in wanted)
        seconds = time.perf_counter() - began
        print(f"Triton {launching.triton.__version__}: {len(found.results)} launches for {cards} compiled, nothing wrong, {seconds:.0f} s")
    return 0
