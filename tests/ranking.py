"""Several ranks on one machine: forked from this process, which has imported everything once, or started by torchrun.

As a program, which torchrun starts, it trains the tiny model in a folder: `-m tests.ranking FOLDER [SETTING ...]`. There a rank can
be told by FALL=RANK:STEP to kill itself after that step, once in the folder's life.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from galaxysd import distributed, runlog
from galaxysd.distributed import Ranks
from galaxysd.errors import GalaxySDError
from galaxysd.runlog import StopSignals
from galaxysd.train.step import Optimiser
from tests import tiny

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Ended:
    """How a rank ended: its exit code (negative: the signal), what its work gave, and what it printed."""

    code: int
    value: Any
    out: str
    err: str


def forked(world: int, folder: Path, work: Callable[[Ranks], Any], seconds: float = 100.0) -> list[Ended]:
    """Runs `work` on each of `world` ranks, and gives how each ended; who is not done after `seconds` is killed, and that is an error."""

    def entered() -> Any:
        with distributed.ranks() as ranks:
            return work(ranks)

    return processes(world, folder, entered, seconds)


class LaunchersStore:
    """The store that torchrun would hold, over all its restarts; it ends with this object.

    A process of its own, as torchrun is: its thread in this one could hold a lock in the very moment a rank is forked, for ever.
    """

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.close(reader)
            store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            os.write(writer, f"{store.port}\n".encode())
            signal.pause()
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as told:
            self.port = int(told.readline())

    def __del__(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)


def launchers_store() -> LaunchersStore:
    return LaunchersStore()


def processes(
    world: int, folder: Path, work: Callable[[], Any], seconds: float = 100.0, store: LaunchersStore | None = None, restart: int = 0
) -> list[Ended]:
    """The same for work that finds its rank in the environment itself."""
    folder.mkdir(parents=True, exist_ok=True)
    store = store or launchers_store()
    told = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    told |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(restart), "GLOO_SOCKET_IFNAME": "lo"}
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            os.environ.update(told, RANK=str(rank), LOCAL_RANK=str(rank))
            _child(folder / f"rank-{rank}", work)
        children.append(child)
    codes = _ends(children, seconds)
    ended = []
    for rank, code in enumerate(codes):
        value, out, err = (folder / f"rank-{rank}.{kind}" for kind in ("json", "out", "err"))
        ended.append(Ended(code, json.loads(value.read_text()) if value.exists() else None, out.read_text(), err.read_text()))
    return ended


def _child(name: Path, work: Callable[[], Any]) -> None:
    """Ends this process with the code that the command line would give."""
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(name.with_suffix(f".{kind}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    name.with_suffix(".json").unlink(missing_ok=True)
    torch.set_num_threads(1)
    code = 1
    try:
        value = work()
        name.with_suffix(".json").write_text(json.dumps(value))
        code = 0
    except GalaxySDError as error:
        if not error.told:
            print(error, file=sys.stderr)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ends(children: list[int], seconds: float) -> list[int]:
    codes: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(codes) < len(children) and time.monotonic() < end:
        for child in set(children) - codes.keys():
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    late = [child for child in children if child not in codes]
    for child in late:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not late, f"{len(late)} of {len(children)} ranks were not done after {seconds:g} s"
    return [codes[child] for child in children]


def torchrun(world: int, *words: str, restarts: int = 0, **environment: str) -> subprocess.Popen[str]:
    """Starts torchrun with `world` ranks; `words` are a module and its arguments."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world), "--max-restarts", str(restarts)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{_free_port()}", "--local-addr", "127.0.0.1"]
    told = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, "-m", "--", *words], env=told, cwd=ROOT, **pipes)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def survivors(folder: Path) -> list[int]:
    """The processes that still have `folder` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:  # it ended as we looked
                continue
            if str(folder).encode() in words:
                found.append(int(entry.name))
    return found


def codes(out: Path) -> list[tuple[int, int]]:
    """Rank and exit code of every process of ours that left `out` by itself, in their order."""
    return [(int(rank), int(code)) for rank, code in map(str.split, out.with_name(f"{out.name}.codes").read_text().splitlines())]


def steps(out: Path) -> list[int]:
    """The steps that a run has logged so far."""
    return [row["step"] for row in runlog.read(out / "log.jsonl") if "gradient" in row] if (out / "log.jsonl").exists() else []


def until(there: Callable[[], bool], started: subprocess.Popen[str], seconds: float = 100.0) -> None:
    """Waits for something that `started` does."""
    end = time.monotonic() + seconds
    while not there():
        assert started.poll() is None, started.communicate()[0]
        assert time.monotonic() < end, f"not after {seconds:g} s"
        time.sleep(0.02)


class Stop(StopSignals):
    """A stop that is asked for after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        super().__init__()

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


def main(out: Path, settings: list[str]) -> int:
    torch.set_num_threads(1)
    fall = os.environ.get("FALL", "")
    if fall and os.environ["RANK"] == fall.partition(":")[0]:
        _fall_after(int(fall.partition(":")[2]), out.with_name(f"{out.name}.fallen-{fall.replace(':', '-')}"))
    code = 0
    try:
        with distributed.ranks() as ranks, StopSignals(quiet=not ranks.leads) as stop:
            tiny.run(out, *settings, stop=stop, ranks=ranks)
    except GalaxySDError as error:
        if not error.told:
            print(error, file=sys.stderr)
        code = error.exit_code
    with out.with_name(f"{out.name}.codes").open("a") as file:
        file.write(f"{os.environ['RANK']} {code}\n")
    return code


def _fall_after(step: int, once: Path) -> None:
    advance = Optimiser.step

    def falling(self, images, progress, loss):
        if images == step * self.config.batch and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(self, images, progress, loss)

    Optimiser.step = falling


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
