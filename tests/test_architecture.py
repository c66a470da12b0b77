"""The shape of the code base: imports go down only, the core needs six packages, the command line answers without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "galaxysd"

# From the top down. Areas on one line do not know each other; an area may import what stands on any line below its own.
FLOORS = (
    {"cli", "demo", "doctor"},
    {"experiments"},
    {"train", "jobs", "export", "gallery"},
    {"sample", "classify", "evaluate"},
    {"engines"},
    {"diffusion"},
    {"model"},
    {"simulate"},
    {"kernels", "data"},
    {"checkpoint"},
    {"config", "presets", "pretrained"},
    {"seeds", "runlog", "distributed", "files", "host"},
    {"errors"},
)
LEVEL = {area: level for level, floor in enumerate(FLOORS) for area in floor}
# The package's own faces: what it exports, and `python -m galaxysd`.
FACES = {"__init__", "__main__"}

# Tests of the project as a whole, and of what stands beside the package: they mirror no module of it.
ABOUT_THE_PROJECT = {"test_architecture", "test_benchmarks", "test_mutations", "test_packaging", "test_pretrained", "test_tiers"}
ABOUT_THE_PROJECT |= {"test_runner", "test_runner_trust"}  # of export/, the other side
ABOUT_THE_PROJECT |= {
    f"test_benchmarks_{part}"
    for part in (
        "ablations",
        "card",
        "check",
        "classes",
        "finetune",
        "front",
        "gate",
        "gpu",
        "kernels",
        "pace",
        "presets",
        "rows",
        "steps",
        "votes",
    )
}

CORE = {"torch", "numpy", "safetensors", "pyarrow", "triton", "galaxysd"}
LINES = 400

CODE_IN_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
STATEFUL_DRAWS = {"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "normal", "multinomial", "bernoulli"}
STATEFUL_DRAWS |= {"manual_seed", "Generator", "normal_", "uniform_", "random_", "bernoulli_", "trunc_normal_"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders if (ROOT / folder).is_dir() for path in (ROOT / folder).rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Gives (line, dotted name) of every import; `from a import b` gives a.b, which may be a module."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            where = ".".join(part for part in (base, node.module) if part)
            yield from ((node.lineno, f"{where}.{name.name}") for name in node.names)


def area(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def upward(path: Path, tree: ast.AST) -> list[str]:
    """The imports of one file that its floor does not allow."""
    mine, wrong = area(path), []
    if mine not in LEVEL:
        return [f"{path.relative_to(ROOT)}: {mine} is not on any floor of tests/test_architecture.py"]
    for line, name in imports(path, tree):
        parts = name.split(".")
        if parts[0] != "galaxysd" or len(parts) < 2 or parts[1] == mine or parts[1] not in LEVEL:
            continue
        if path.stem == "__main__" and parts[1] == "cli":
            continue  # `python -m` of an area is the command line under another name
        if mine == "kernels" or LEVEL[parts[1]] <= LEVEL[mine]:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {mine} imports {parts[1]}, which is not below it")
    return wrong


def test_imports_go_down_only():
    wrong = [each for path in sources("galaxysd") if area(path) not in FACES for each in upward(path, parsed(path))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("file", "code", "allowed"),
    [
        ("diffusion/x.py", "from galaxysd.model import unet", True),
        ("diffusion/x.py", "from galaxysd.diffusion.loss import loss", True),
        ("model/x.py", "from galaxysd.diffusion import loss", False),
        ("model/x.py", "def f():\n    import galaxysd.sample", False),
        ("data/x.py", "from galaxysd import kernels", False),
        ("data/x.py", "from ..kernels import norm", False),
        ("kernels/x.py", "from galaxysd.errors import BadInput", False),
        ("kernels/x.py", "from galaxysd.kernels import norm", True),
        ("train/x.py", "from galaxysd import cli", False),
        ("train/__main__.py", "from galaxysd.cli import main", True),
        ("strange.py", "import torch", False),
    ],
)
def test_the_floor_check_sees_what_it_should(file, code, allowed):
    assert (upward(PACKAGE / file, ast.parse(code)) == []) == allowed


def test_only_core_packages_are_imported_at_module_level():
    """Extras are imported inside the functions that use them: GPU machines have the core and pytest alone."""
    allowed = CORE | set(sys.stdlib_module_names)
    wrong = []
    for path in sources("galaxysd"):
        top = ast.Module([node for node in parsed(path).body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
        wrong += [f"{path.relative_to(ROOT)}:{line}: {name}" for line, name in imports(path, top) if name.split(".")[0] not in allowed]
    assert not wrong, "\n".join(wrong)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def forbidden(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """What no file of ours does: run code found in data, repair in silence, or draw from a hidden state."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                if name.split(".")[0] in CODE_IN_DATA:
                    yield node.lineno, f"imports {name}: its files can hold code"
                if name.split(".")[0] == "random" or name.startswith("numpy.random"):
                    yield node.lineno, f"imports {name}: draws come from galaxysd.seeds"
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            last = name.rpartition(".")[2]
            if name in ("eval", "exec", "torch.load", "yaml.load") or last == "nan_to_num":
                yield node.lineno, f"calls {name}"
            if any(
                word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
                for word in node.keywords
            ):
                yield node.lineno, "allows pickle"
            if (last in STATEFUL_DRAWS and (last.endswith("_") or name == f"torch.{last}")) or name.startswith(
                ("np.random.", "numpy.random.")
            ):
                yield node.lineno, f"calls {name}: draws come from galaxysd.seeds"
        elif isinstance(node, ast.ExceptHandler):
            swallowed = all(isinstance(line, (ast.Pass, ast.Continue)) for line in node.body)
            if node.type is None or (dotted(node.type) in ("Exception", "BaseException") and swallowed):
                yield node.lineno, "swallows every exception"


def test_nothing_forbidden_is_called():
    wrong = [f"{path.relative_to(ROOT)}:{line}: {what}" for path in sources("galaxysd", "export") for line, what in forbidden(parsed(path))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import dump",
        "import random",
        "torch.load('x')",
        "np.load('x', allow_pickle=True)",
        "torch.nan_to_num(x)",
        "x.nan_to_num()",
        "torch.randn(3)",
        "nn.init.normal_(x)",
        "np.random.default_rng()",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    raise",
    ],
)
def test_the_forbidden_check_sees_what_it_should(code):
    assert list(forbidden(ast.parse(code)))


def test_files_are_short_and_say_what_they_are_for():
    wrong = []
    for path in sources("galaxysd", "export", "benchmarks", "tests"):
        text = path.read_text()
        if text.count("\n") > LINES:
            wrong.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines, {LINES} at most; it probably holds two ideas")
        if path.parts[len(ROOT.parts)] != "tests" and text.strip() and not ast.get_docstring(ast.parse(text)):
            wrong.append(f"{path.relative_to(ROOT)}: no docstring at the top")
    assert not wrong, "\n".join(wrong)


def test_tests_mirror_the_package():
    wrong = []
    for path in sources("tests"):
        inside = path.relative_to(ROOT / "tests")
        if inside.parts[0] == "proof" or not path.stem.startswith("test_") or (len(inside.parts) == 1 and path.stem in ABOUT_THE_PROJECT):
            continue
        twin = PACKAGE / inside.with_name(f"{path.stem.removeprefix('test_')}.py")
        if not twin.exists() and not twin.with_suffix("").is_dir():
            wrong.append(f"tests/{inside} has no {twin.relative_to(ROOT)}")
    assert not wrong, "\n".join(wrong)


def test_the_verbs_exist():
    from galaxysd.cli import VERBS

    missing = []
    for verb, (module, _) in VERBS.items():
        place = ROOT / Path(*module.split("."))
        path = next((each for each in (place.with_suffix(".py"), place / "__init__.py") if each.exists()), None)
        defined = {node.name for node in parsed(path).body if isinstance(node, ast.FunctionDef)} if path else set()
        if not {"add_arguments", "run"} <= defined:
            missing.append(f"galaxysd {verb}: {module} has no add_arguments and run")
    assert not missing, "\n".join(missing)


def test_help_answers_at_once_and_without_torch():
    code = "import sys; from galaxysd.cli import main; main(['--help']); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    seconds = []
    for _ in range(5):  # the best of a few: other work on the machine is not what is measured
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60)
        seconds.append(time.perf_counter() - began)
        if seconds[-1] < 0.5:
            break
    assert min(seconds) < 0.5


def test_every_size_has_a_row_and_every_row_a_use():
    rows = tomllib.loads((ROOT / "tests" / "tiers.toml").read_text())
    for name, row in rows.items():
        assert set(row) == {"what", "test", "proof", "long"}, f"tests/tiers.toml [{name}]: what, test, proof and long expected"
        assert 0 < row["test"] <= row["proof"] <= row["long"], f"tests/tiers.toml [{name}]: the sizes must not fall"
    used = set()
    for path in sources("tests"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tier":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: write the name of the row out"
                used.add(node.args[0].value)
    assert used == set(rows), f"without a row: {sorted(used - set(rows))}; without a use: {sorted(set(rows) - used)}"


def test_every_proof_says_which_it_is():
    """An unmarked test in tests/proof would run in every `make test`."""
    wrong = []
    for path in sources("tests/proof"):
        if not path.stem.startswith("test_"):
            continue
        tree, mark = parsed(path), f"pytest.mark.proof_{path.stem.split('_')[1]}"
        if any(isinstance(node, ast.Assign) and mark in ast.unparse(node) for node in tree.body):
            continue  # pytestmark: the whole file
        tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        unmarked = [test for test in tests if mark not in map(ast.unparse, test.decorator_list)]
        wrong += [f"{path.relative_to(ROOT)}:{test.lineno}: {test.name} is not marked {mark}" for test in unmarked]
    assert not wrong, "\n".join(wrong)
