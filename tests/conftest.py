"""What every test can count on: the N of its tier, a place to report figures, one thread, a time limit, and skips that say why."""

from __future__ import annotations

import json
import os
import subprocess
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
TIERS = tomllib.loads((HERE / "tiers.toml").read_text())
# Tier -> seconds a single test may take; 0 is no limit.
SECONDS = {"test": 120, "proof": 720, "long": 0}

torch.set_num_threads(1)

# Without a GPU the launchers registered for one run in Triton's interpreter, which has to be said before kernels are defined.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

try:
    import hypothesis
except ImportError:  # a machine with torch and pytest alone runs what does not need it
    pass
else:
    hypothesis.settings.register_profile("galaxysd", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("galaxysd")


@dataclass
class Session:
    """What the terminal summary tells: the sizes used and the figures reported."""

    tier: str
    sizes: dict[str, int] = field(default_factory=dict)
    figures: list[str] = field(default_factory=list)


SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=tuple(SECONDS), default="test", help="which N of tests/tiers.toml to use")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SESSION] = Session(config.getoption("--tier"))
    if not config.pluginmanager.hasplugin("timeout"):
        config.addinivalue_line("markers", "timeout(seconds): enforced where pytest-timeout is installed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tier = config.stash[SESSION].tier
    for item in items:
        if item.get_closest_marker("timeout") is None and SECONDS[tier]:
            item.add_marker(pytest.mark.timeout(SECONDS[tier]))
    if tier == "test" and "proof_" not in config.option.markexpr:
        proofs = [item for item in items if area(item)]
        if proofs:
            config.hook.pytest_deselected(items=proofs)
            items[:] = [item for item in items if not area(item)]


def area(item: pytest.Item) -> str | None:
    """The proof an item belongs to, "core" for the marker proof_core; None for an ordinary test."""
    return next((mark.name.removeprefix("proof_") for mark in item.iter_markers() if mark.name.startswith("proof_")), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def tier(request: pytest.FixtureRequest) -> Callable[[str], int]:
    """Gives the N of a row of tests/tiers.toml in the tier of this run."""
    session = request.config.stash[SESSION]

    def n(name: str) -> int:
        if name not in TIERS:
            pytest.fail(f"tests/tiers.toml: no row [{name}]")
        session.sizes[name] = TIERS[name][session.tier]
        return session.sizes[name]

    return n


class Report:
    """Prints figures as they are found and again at the end; in the tier `long` they become rows under benchmarks/results."""

    def __init__(self, item: pytest.Item) -> None:
        self.item, self.session = item, item.config.stash[SESSION]

    def __call__(self, name: str, value: object, *, n: int, bound: tuple[float, float] | None = None) -> None:
        """`value` of what `name` says, measured on n; `bound` is its 95 % interval."""
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        interval = f", 95 % bound {bound[0]:.4g} to {bound[1]:.4g}" if bound is not None else ""
        line = f"{name}: {shown} (N={n}{interval})"
        print(line, flush=True)
        self.session.figures.append(line)
        if self.session.tier == "long":
            self._append({"name": name, "value": value, "n": n, "bound": bound})

    def rate(self, name: str, hits: int, n: int) -> None:
        """A rate of `hits` in n trials, with Wilson's interval."""
        from galaxysd.evaluate.intervals import wilson

        self(name, f"{hits} of {n}", n=n, bound=wilson(hits, n))

    def _append(self, row: dict[str, Any]) -> None:
        from galaxysd.host import machine

        def git(*words: str) -> str:
            return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

        row |= {"test": self.item.nodeid, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine()}
        row |= {"commit": git("rev-parse", "HEAD"), "changed_files": len(git("status", "--porcelain").splitlines())}
        RESULTS.mkdir(parents=True, exist_ok=True)
        with (RESULTS / f"proof-{area(self.item) or 'test'}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Takes the figures a proof finds: report("step ratio", 1.07, n=9, bound=(1.02, 1.12)) or report.rate("same digest", 40, 40)."""
    return Report(request.node)


def pytest_sessionfinish(session: pytest.Session) -> None:
    worker = getattr(session.config, "workeroutput", None)
    if worker is not None:  # of pytest-xdist: its summary is the controller's
        mine = session.config.stash[SESSION]
        worker["sizes"], worker["figures"] = mine.sizes, mine.figures


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Takes what a worker of pytest-xdist has to tell; one that crashed has nothing, and its tests failed."""
    mine, theirs = node.config.stash[SESSION], getattr(node, "workeroutput", {})
    mine.sizes |= theirs.get("sizes", {})
    mine.figures += theirs.get("figures", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = config.stash[SESSION]
    if session.sizes:
        terminalreporter.section(f"sizes (tier {session.tier})")
        for name, n in sorted(session.sizes.items()):
            full = TIERS[name]["long"]
            terminalreporter.write_line(f"{name}: N={n}" + (f", {full} in make long" if n < full else ""))
    if session.figures:
        terminalreporter.section("figures")
        for line in session.figures:
            terminalreporter.write_line(line)
