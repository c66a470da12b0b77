"""What is installed is galaxysd and nothing else, and its commands run where the repository is not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import galaxysd

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository: building in it leaves nothing in ours."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("galaxysd", "tests", "export", "benchmarks"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / "README.md").write_text("# galaxysd\n")
    return tree


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    pytest.importorskip("setuptools", minversion="77", reason="needs setuptools 77 to build the wheel")
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(tree)]
    subprocess.run(build, check=True, timeout=100, stdin=subprocess.DEVNULL)
    (path,) = out.glob("*.whl")
    return path


def test_one_version_everywhere():
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert PROJECT["version"] == galaxysd.__version__ == citation[1]
    assert f"## {galaxysd.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_dev_stays_clear_of_what_must_not_be_in_it():
    """timm pulls a torchvision that must match the torch build; onnxruntime-gpu would overwrite onnxruntime."""
    extras = PROJECT["optional-dependencies"]
    wanted = set(extras["dev"])
    assert "galaxysd[data,export]" in wanted
    wanted |= set(extras["data"]) | set(extras["export"])
    assert not [each for each in wanted if re.match(r"timm|torchvision|onnxruntime-gpu|ray|tensorrt", each)]
    assert set(extras) == {"data", "eval", "jobs", "hats", "export", "export-gpu", "trt", "trt-rtx", "encoders", "dev"}


def test_extras_are_those_the_command_line_names():
    from galaxysd.cli import BROUGHT_BY

    named = {match[1] for each in BROUGHT_BY.values() if (match := re.search(r"\[(.+)\]", each))}
    assert named <= set(PROJECT["optional-dependencies"])


def test_the_wheel_holds_the_package_and_nothing_else(tree, wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"galaxysd", f"galaxysd-{galaxysd.__version__}.dist-info"}
    ours = {path.relative_to(tree).as_posix() for path in (tree / "galaxysd").rglob("*") if path.is_file()}
    assert not ours - set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_holds_the_runner_from_its_one_source(tree, wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    inside = tmp_path / "galaxysd/export/runner"
    ours = {path.name: path.read_bytes() for path in (tree / "export").iterdir() if path.is_file()}
    ours["LICENSE"] = (tree / "LICENSE").read_bytes()
    assert {path.name: path.read_bytes() for path in inside.iterdir()} == ours
    code = "from galaxysd.export import bundle; print(bundle.runner()); print(bundle.licence(bundle.runner()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.split() == [str(inside), str(inside / "LICENSE")], done.stderr


def test_the_commands_of_the_wheel_run_elsewhere(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        (entries,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(entries).decode()
    assert "galaxysd = galaxysd.cli:main" in text
    assert "galaxysd-export = galaxysd.cli:export_main" in text
    code = (
        "import sys, galaxysd; print(galaxysd.__file__); from galaxysd import cli, config; print(config.presets()); "
        "sys.exit(cli.main(['doctor', '--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    where, presets, usage = done.stdout.split("\n", 2)
    assert where.startswith(str(tmp_path))
    assert "smoke-32" in presets
    assert usage.startswith("usage: galaxysd doctor")
