"""Logs survive a torn line, progress says how far, and a signal asks once and insists the second time."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from galaxysd import runlog
from galaxysd.errors import BadInput, Unavailable
from galaxysd.runlog import Log, Progress, StopSignals


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_rows_come_back_and_a_second_log_appends(tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    with Log(path) as log:
        log.write(step=1, loss=0.5, name="größe")
    with Log(path) as log:
        log.write(step=2, loss=float("nan"), pair=(1, float("inf")))
    assert runlog.read(path) == [{"step": 1, "loss": 0.5, "name": "größe"}, {"step": 2, "loss": "nan", "pair": [1, "inf"]}]


def test_a_line_is_out_when_write_returns(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write(step=1)
    assert runlog.read(log.path) == [{"step": 1}]
    log.close()


def test_a_torn_last_line_is_left_out_wherever_it_was_cut(tmp_path):
    path = tmp_path / "log.jsonl"
    with Log(path) as log:
        log.write(step=1)
        log.write(step=2)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert runlog.read(path) == [{"step": 1}]
        with Log(path) as log:
            log.write(step=3)
        assert runlog.read(path) == [{"step": 1}, {"step": 3}]


def test_damage_before_the_last_line_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(BadInput, match=r"log\.jsonl: line 2 is not JSON"):
        runlog.read(path)
    with pytest.raises(BadInput, match="no such log"):
        runlog.read(tmp_path / "none.jsonl")


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path, capsys):
    with Log(tmp_path / "log.jsonl") as log:
        for step in (10, 20, 30):
            log.write(step=step)
        log.warn("step-30 is damaged; going on from step-10")
        log.truncate(10)
        log.write(step=20)
    assert runlog.read(log.path) == [{"step": 10}, {"warning": "step-30 is damaged; going on from step-10"}, {"step": 20}]
    assert "warning: step-30" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"file/log\.jsonl: the log cannot be written"):
        Log(tmp_path / "file" / "log.jsonl")


def test_a_full_disk_is_said_in_words(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.close()
    log._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115  # every write to it says that no space is left
    with log, pytest.raises(Unavailable, match=r"cannot be written \(No space left on device\)"):
        log.write(step=1)


def test_away_from_a_terminal_progress_is_a_line_a_minute_and_one_at_the_end(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Progress("train", total=1000, done=400, unit="img", stream=out) as progress:
        for _ in range(10):
            now[0] += 15
            progress.update(30, note="loss 0.5")
    said = out.getvalue().splitlines()
    assert said == [
        "train: 520 of 1,000 img (52%), 2 img/s, 4 min 0 s left, loss 0.5",
        "train: 640 of 1,000 img (64%), 2 img/s, 3 min 0 s left, loss 0.5",
        "train: 700 img after 2 min 30 s, 2 img/s",
    ]


def test_without_a_total_there_is_no_promise():
    out = io.StringIO()
    with Progress("scan", every=0, stream=out) as progress:
        progress.update(5)
    assert "left" not in out.getvalue()
    assert out.getvalue().startswith("scan: 5 img, ")


def test_on_a_terminal_it_is_a_bar():
    pytest.importorskip("tqdm", reason="needs tqdm")
    out = Terminal()
    with Progress("train", total=4, stream=out) as progress:
        for _ in range(4):
            progress.update(1, note="loss 0.5")
    assert "train: 100%" in out.getvalue()
    assert "4/4" in out.getvalue()
    assert "loss 0.5" in out.getvalue()


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_durations(seconds, said):
    assert runlog.duration(seconds) == said


@pytest.mark.parametrize("number", StopSignals.SIGNALS)
def test_a_signal_asks_for_a_stop(number, capfd):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        os.kill(os.getpid(), number)  # the same request, sent to the whole group as well
    assert signal.getsignal(number) is before
    assert stop.reason == signal.Signals(number).name
    assert stop.reason in capfd.readouterr().err


def test_a_quiet_stop_says_nothing(capfd):
    with StopSignals(quiet=True) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert capfd.readouterr() == ("", "")


def test_the_log_of_a_rank_that_does_not_lead_is_no_log(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with runlog.Mute() as mute:
        mute.write(step=1)
        mute.truncate(0)
        mute.update(4, note="loss 1")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_second_signal_insists(monkeypatch, capfd):
    monkeypatch.setattr(StopSignals, "ONE_REQUEST", 0.0)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGUSR1)  # a scheduler's notice never insists
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_outside_the_main_thread_handlers_stay_as_they_are():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside():
        with StopSignals() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_a_command_stopped_by_a_signal_exits_75(tmp_path):
    code = (
        "import sys, time, types\nfrom galaxysd import cli\nfrom galaxysd.errors import Stopped\nfrom galaxysd.runlog import StopSignals\n"
        "def run(args):\n with StopSignals() as stop:\n  print('ready', flush=True)\n  while not stop.requested: time.sleep(0.01)\n"
        " raise Stopped('stopped; the same command goes on')\n"
        "m = types.ModuleType('m'); m.add_arguments = lambda p: None; m.run = run; sys.modules['m'] = m\n"
        "cli.VERBS = {'m': ('m', 'x')}; sys.exit(cli.main(['m']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 75
    assert said.splitlines()[-1] == "galaxysd: stopped; the same command goes on"
