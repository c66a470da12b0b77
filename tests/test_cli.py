"""The command line: exit codes, one line for what is expected to go wrong, and the nearest name for a typo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from galaxysd import cli, errors

ROOT = Path(__file__).parent.parent


@pytest.fixture
def verb(monkeypatch):
    """Puts verbs of our own into the table; gives a function that sets what `galaxysd try` does."""
    module = types.ModuleType("verb_of_a_test")

    def add_arguments(parser):
        parser.add_argument("file", nargs="?")
        parser.add_argument("--preset", choices=("smoke-32", "small-64"), default="smoke-32")
        parser.add_argument("--steps", type=int)

    module.add_arguments = add_arguments
    module.run = lambda args: None
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(
        cli, "VERBS", {"try": (module.__name__, "does it"), "pair one": (module.__name__, "first"), "pair two": ("absent", "second")}
    )
    monkeypatch.setattr(cli, "GROUPS", {"pair": "one of two"})

    def does(run):
        module.run = run

    return does


def test_a_verb_runs_with_its_arguments(verb):
    seen = []
    verb(lambda args: seen.append((args.file, args.preset, args.steps)))
    assert cli.main(["try", "a", "--steps", "3"]) == 0
    assert cli.main(["b"], verb="try") == 0
    assert cli.main(["pair", "one", "c"]) == 0  # and `pair two`, whose module is absent, was not imported
    assert seen == [("a", "smoke-32", 3), ("b", "smoke-32", None), ("c", "smoke-32", None)]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.GalaxySDError, 2),
        (errors.BadInput, 2),
        (errors.Mismatch, 3),
        (errors.Unavailable, 4),
        (errors.Stopped, 75),
        (KeyboardInterrupt, 75),
    ],
)
def test_what_is_expected_takes_one_line_and_its_code(verb, capsys, kind, code):
    def run(args):
        raise kind("here: this, that expected")

    verb(run)
    assert cli.main(["try"]) == code
    said = capsys.readouterr()
    assert said.err.strip().startswith("galaxysd: ")
    assert len(said.err.strip().splitlines()) == 1
    assert said.out == ""


def test_a_code_that_a_verb_gives_is_the_exit_code(verb):
    verb(lambda args: 75)
    assert cli.main(["try"]) == 75


def test_a_bug_of_ours_keeps_its_traceback(verb):
    def run(args):
        raise ZeroDivisionError("ours")

    verb(run)
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.main(["try"])


def test_a_refusal_of_the_machine_takes_one_line(verb, capsys):
    def run(args):
        raise PermissionError(13, "Permission denied", "/there/set.json")

    verb(run)
    assert cli.main(["try"]) == 4
    assert capsys.readouterr().err == (
        "galaxysd: /there/set.json: not allowed (Permission denied); choose another folder, or change its permissions\n"
    )


def test_sigterm_stops_a_verb_that_does_not_listen(verb, capsys):
    def run(args):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    verb(run)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["try"]) == 75
    assert signal.getsignal(signal.SIGTERM) == before
    assert "everything committed so far is whole" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(verb, capsys):
    def run(args):
        raise ModuleNotFoundError("No module named 'astropy.io'", name="astropy.io")

    verb(run)
    assert cli.main(["try"]) == 4
    assert "astropy is not installed; pip install 'galaxysd[data]'" in capsys.readouterr().err


def test_a_missing_module_of_ours_is_a_bug(verb):
    with pytest.raises(ModuleNotFoundError, match="absent"):
        cli.main(["pair", "two"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tyr"], "no such choice 'tyr'; did you mean try?"),
        (["try", "--preste", "small-64"], "--preste: no such option; did you mean --preset?"),
        (["try", "--pre=small-64"], "--pre: no such option; did you mean --preset?"),
        (["try", "--preset", "small-46"], "--preset: no such choice 'small-46'; did you mean small-64?"),
        (["try", "a", "b"], "b: one word too many"),
        (["try", "--steps", "many"], "--steps: invalid int value: 'many'"),
        (["pair", "onee"], "no such choice 'onee'; did you mean one?"),
        (["pair"], "required"),
        ([], "required"),
        (["--version", "try", "--x"], ""),
    ],
)
def test_a_typo_gets_the_nearest_name(verb, capsys, words, said):
    code = cli.main(words)
    assert code == (2 if said else 0)
    assert said in capsys.readouterr().err


def test_the_real_table_names_its_verbs(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name.split()[0] in shown for name in cli.VERBS)


LOUD = """
import sys, types
from galaxysd import cli
loud = types.ModuleType("loud")
loud.add_arguments = lambda parser: None
loud.run = lambda args: [print("x" * 9999) for _ in range(99)] and None
sys.modules["loud"] = loud
cli.VERBS = {"loud": ("loud", "prints a lot")}
sys.exit(cli.main(["loud"]))
"""


def test_a_reader_who_leaves_early_hears_no_complaint(tmp_path):
    (tmp_path / "loud.py").write_text(LOUD)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "loud.py")], env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        child.stdout.read(1)
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 128 + signal.SIGPIPE


def test_python_dash_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "galaxysd", "trian"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "galaxysd: VERB: no such choice 'trian'; did you mean train?; see galaxysd --help\n"


def test_galaxysd_export_is_the_verb(monkeypatch, verb):
    seen = []
    verb(lambda args: seen.append(args.file))
    monkeypatch.setitem(cli.VERBS, "export", ("verb_of_a_test", "writes"))
    monkeypatch.setattr(sys, "argv", ["galaxysd-export", "RUN"])
    assert cli.export_main() == 0
    assert seen == ["RUN"]
