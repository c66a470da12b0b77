"""A tiny model, a set to look at, and pools whose workers are forked."""

from __future__ import annotations

from pathlib import Path

import pytest

from galaxysd.cli import main
from tests import jobbing


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return jobbing.model(tmp_path_factory.mktemp("jobs") / "run")


@pytest.fixture(scope="session")
def survey(tmp_path_factory) -> Path:
    """A simulated set in two shards, the second one short."""
    from galaxysd.data.shards import SetWriter
    from galaxysd.simulate.survey import SimulatedSource

    source, out = SimulatedSource("tutorial", 9, 0, 150, 32), tmp_path_factory.mktemp("jobs") / "survey"
    import torch

    whole = source.load(0)
    with SetWriter(out, source.frame, {"made_by": "test"}, 100) as writer:
        writer.write(0, whole.rows(torch.arange(100)))
        writer.write(1, whole.rows(torch.arange(100, 150)))
        writer.finish()
    return out


@pytest.fixture
def forked(monkeypatch) -> None:
    jobbing.fork_workers(monkeypatch)


@pytest.fixture
def command(capsys):
    """Runs a command line; gives its exit code and what it said."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call
