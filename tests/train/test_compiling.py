"""The compiled step: one graph each way without a break, never compiled twice, no map copied to another layout, the eager losses."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.utils._python_dispatch import TorchDispatchMode

from galaxysd import checkpoint, files, runlog, seeds
from galaxysd.distributed import Ranks, Share
from galaxysd.errors import Mismatch, Stopped, Unavailable
from galaxysd.model.blocks import ResBlock
from galaxysd.model.layers import laid_out
from galaxysd.runlog import StopSignals
from galaxysd.train import compiling, loop
from galaxysd.train.classify import ClassifyTask
from galaxysd.train.feed import Feed
from tests import ranking, tiny

CPU = torch.device("cpu")
LOGGED = ("train.steps=6", "train.log_steps=1", "train.batch=8", "model.channels=[8]", "model.attention=[4]")
# Dynamo makes an instance of an autograd function while it traces one, and torch warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture(autouse=True)
def graphs_as_they_are(monkeypatch):
    """Without Inductor: what is captured, run operator by operator."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=8, optimize_ddp=True, error_on_recompile=False):  # as they were before, also afterwards
        yield
    torch.compiler.reset()


class Once:
    """A stop that never comes; whatever would be compiled after the first step is an error."""

    def __init__(self) -> None:
        self.looks = 0

    @property
    def requested(self) -> bool:
        self.looks += 1
        torch._dynamo.config.error_on_recompile = self.looks > 1  # before the first step, and after each
        return False


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in runlog.read(out / "log.jsonl") if "gradient" in row]


def classified(out: Path, *settings: str, stop: StopSignals) -> None:
    task = tiny.task(*settings)
    loop.train(ClassifyTask(task.config, task.frame, task.stretch, CPU), tiny.Blobs(), out, stop)


# What is run, its settings, and how many graphs its blocks need.
RUNS = {
    "denoiser, in parts, recomputing": (tiny.run, ("train.accumulate=4", "train.recompute=true"), 3),
    "denoiser of twin blocks, of some weights": (tiny.run, ("model.blocks=3", "train.only=['head', 'up', 'middle']"), 4),
    "denoiser, bf16 and nchw": (tiny.run, ("train.layout='nchw'", "train.dtype='bf16'"), 3),
    "classifier": (classified, ("model.channels=[8,16]",), 2),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_compiles_its_blocks_once_and_loses_what_the_eager_one_does(name: str, tmp_path: Path):
    run, settings, graphs = RUNS[name]
    run(tmp_path / "eager", *LOGGED, *settings, stop=Once())
    assert not counters["stats"]
    run(tmp_path / "compiled", *LOGGED, *settings, "train.compile='on'", stop=Once())
    assert counters["stats"]["unique_graphs"] == graphs
    assert counters["aot_autograd"]["ok"] == graphs
    assert not counters["graph_break"]
    rel = 2e-2 if "bf16" in name else 1e-5
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=rel, abs=0)
    first = [row for row in runlog.read(tmp_path / "compiled" / "log.jsonl") if "first_step_seconds" in row]
    assert [row["step"] for row in first] == [1]
    assert first[0]["first_step_seconds"] > 0


def test_a_shape_that_changes_would_be_an_error(tmp_path: Path, monkeypatch):
    """What the test above relies on: another shape after the first step is another graph, and that is refused."""
    prepare = tiny.DenoiseTask.prepare

    def shrinking(task, galaxies, step, share):
        return tuple(each[: 8 - step] for each in prepare(task, galaxies, step, share))

    monkeypatch.setattr(tiny.DenoiseTask, "prepare", shrinking)
    with pytest.raises(torch._dynamo.exc.RecompileError):
        tiny.run(tmp_path / "run", *LOGGED, "train.compile='on'", stop=Once())


def test_a_break_in_a_graph_is_an_error(tmp_path: Path, monkeypatch):
    forward = ResBlock.forward

    def breaking(block, *given):
        torch._dynamo.graph_break()
        return forward(block, *given)

    monkeypatch.setattr(ResBlock, "forward", breaking)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="graph_break"):
        tiny.run(tmp_path / "run", *LOGGED, "train.compile='on'")


def test_ranks_and_pieces_compile_each_their_own(tmp_path: Path):
    """Two ranks, stopped after four steps and gone on with: every call compiles for itself, and they lose what one eager run does."""
    tiny.run(tmp_path / "alone", *LOGGED)
    settings = (*LOGGED, "train.compile='on'", "train.accumulate=2")

    def first(ranks: Ranks) -> None:
        tiny.run(tmp_path / "ranks", *settings, ranks=ranks, stop=ranking.Stop(4))

    def second(ranks: Ranks) -> int:
        tiny.run(tmp_path / "ranks", *settings, ranks=ranks, stop=Once())
        return counters["stats"]["unique_graphs"]

    ended = ranking.forked(2, tmp_path / "first", first)
    assert [each.code for each in ended] == [75, 75], ended
    ended = ranking.forked(2, tmp_path / "second", second)
    assert [(each.code, each.value) for each in ended] == [(0, 3), (0, 3)], ended
    assert losses(tmp_path / "ranks") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5, abs=0)
    assert [row["step"] for row in runlog.read(tmp_path / "ranks" / "log.jsonl") if "first_step_seconds" in row] == [1, 5]


@pytest.mark.parametrize(
    ("name", "device", "compiles"), [("auto", "cuda", True), ("auto", "cpu", False), ("on", "cpu", True), ("off", "cuda", False)]
)
def test_what_compiles(name: str, device: str, compiles: bool):
    assert compiling.resolve_compile(name, torch.device(device)) is compiles


def test_a_run_goes_on_as_it_was_begun(tmp_path: Path, monkeypatch):
    """What was begun before anything compiled stays eager, whatever `auto` has come to mean; a word for it changes the run."""
    short = (*LOGGED, "train.save_steps=2")
    with pytest.raises(Stopped):
        tiny.run(tmp_path / "run", *short, stop=ranking.Stop(2))
    assert "compiled" not in files.read_json(tmp_path / "run" / "run.json")["run"]
    assert "compile" not in checkpoint.newest(tmp_path / "run").file("model").about["config"]["train"]
    with pytest.raises(Mismatch, match=r"config\.train\.compile is None there and 'on' here"):
        tiny.run(tmp_path / "run", *short, "train.compile='on'")
    monkeypatch.setattr(loop, "resolve_compile", lambda name, device: True)
    tiny.run(tmp_path / "run", *short)
    assert not counters["stats"]
    with pytest.raises(Stopped):
        tiny.run(tmp_path / "new", *short, stop=ranking.Stop(2))
    assert files.read_json(tmp_path / "new" / "run.json")["run"]["compiled"] is True
    assert counters["stats"]["unique_graphs"] == 3


def test_a_machine_without_a_compiler_is_said(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", no_compiler)
    with pytest.raises(Unavailable, match=r"this machine has no C\+\+ compiler; install g\+\+, or use --set train.compile=off"):
        compiling.compiled(torch.nn.Identity(), (), CPU)


@pytest.mark.parametrize(
    ("said", "kept"), [(None, "galaxysd/compiled"), (default_cache_dir(), "galaxysd/compiled"), ("/my/own", "/my/own")]
)
def test_compiled_code_is_kept_in_the_users_own_folder(tmp_path: Path, monkeypatch, said: str | None, kept: str):
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(compiling.CACHE, said or "")
    if said is None:
        monkeypatch.delenv(compiling.CACHE)
    compiling.compiled(torch.nn.Identity(), (), CPU)
    assert os.environ[compiling.CACHE] == str(tmp_path / kept)  # an absolute one is itself


def no_compiler() -> str:
    raise InvalidCxxCompiler


class Moves(TorchDispatchMode):
    """Counts all operators, and the copies of maps from one memory layout to another among them."""

    COPIES = ("copy_", "clone", "_to_copy", "contiguous")

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled code runs under it."""
        return True

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.moved = Counter[str](), []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        self.seen[name] += 1
        source = args[1] if name == "copy_" else args[0] if args else None
        if name in self.COPIES and isinstance(source, Tensor) and source.ndim == 4 and order(source) != order(out):
            self.moved.append(f"{name} {list(source.shape)}: {source.stride()} to {out.stride()}")
        return out


def order(x: Tensor) -> list[int]:
    """The dimensions of a map from the slowest to the fastest, without those of length 1."""
    return sorted((d for d in range(4) if x.shape[d] > 1), key=lambda d: -x.stride(d))


def stepped(planted: bool = False) -> Moves:
    """What a compiled step of a network with two sources does, forward and backward, once it is compiled.

    Without attention: a CPU's is matrix products of torch, which want maps laid out otherwise, and a GPU's kernels read them as they are.
    """
    layout = torch.channels_last
    task = tiny.task("model.channels=[8,16]", "model.attention=[]")
    net = laid_out(task.build(), layout)
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter += 0.02 * seeds.normal(0, "stirred", number, parameter.shape)[0].to(parameter)  # no branch stays at zero
    objective = task.objective(net, layout)
    if planted:
        net.middle.conv1.register_forward_pre_hook(lambda module, given: (given[0].contiguous(),))
    compiling.compiled(objective, task.blocks, CPU)
    with contextlib.closing(Feed(task, tiny.Blobs(), 0, [Share.whole(8)], layout, CPU).start(0)) as stream:
        objective(*next(stream)[0]).backward()
        with torch._dynamo.config.patch(error_on_recompile=True), Moves() as moves:
            objective(*next(stream)[0]).backward()
    return moves


def test_no_map_is_copied_to_another_layout():
    moves = stepped()
    assert moves.seen["convolution"] == moves.seen["convolution_backward"] == 16  # it was watched
    assert moves.moved == []


def test_a_copy_between_layouts_would_be_seen():
    assert any("clone [8, 16, 2, 2]" in each for each in stepped(planted=True).moved)
