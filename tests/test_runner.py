"""The other side of an export: what it draws is what galaxysd draws, and a bundle that is not what its record says is not opened."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import galaxysd
from galaxysd import seeds
from galaxysd.cli import main
from galaxysd.data import conditions, transforms
from galaxysd.data.galaxies import NUMERIC, Frame
from galaxysd.data.schema import GZ2
from galaxysd.diffusion.samplers import levels
from galaxysd.export.bundle import RUNNER, export
from tests.other_side import SIDE, module
from tests.perturbed import perturbed

pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime (galaxysd[export])")
pytestmark = pytest.mark.timeout(400)  # tracing a model is slow where other work shares the cores


@pytest.fixture(scope="module")
def side() -> Any:
    """The runner's modules, by name, as its own script finds them."""
    found = {name: module(name.removesuffix(".py")) for name in RUNNER}
    return type("Side", (), {name.removesuffix(".py").removeprefix("bundle_"): each for name, each in found.items()})


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    return perturbed("smoke-32", tmp_path_factory.mktemp("model") / "smoke.safetensors")


@pytest.fixture(scope="module")
def bundle(smoke: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "smoke-32"
    export(smoke, out)
    return out


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "first-judge"
    export("first-judge", out)
    return out


def test_it_imports_nothing_of_ours_and_no_torch():
    allowed = {"numpy", "onnxruntime", "PIL", *(name.removesuffix(".py") for name in RUNNER), *sys.stdlib_module_names}
    for name in RUNNER:
        for node in ast.walk(ast.parse((SIDE / name).read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert {module.partition(".")[0] for module in modules} <= allowed, f"{name}:{node.lineno}"


@pytest.mark.parametrize("seed", [0, 12345])
def test_its_random_bits_are_ours_and_its_normals_within_an_ulp(side, seed: int):
    index = [0, 5, 1 << 40]
    assert np.array_equal(side.drawing.bits(seed, "sample", index, 10), seeds.bits(seed, "sample", index, 10).numpy().astype(np.uint64))
    mine, ours = side.drawing.normal(seed, "sample", index, (3, 5, 7)), seeds.normal(seed, "sample", index, (3, 5, 7)).numpy()
    np.testing.assert_array_max_ulp(mine, ours, 1)


def test_its_levels_are_ours_bit_for_bit(side):
    config = galaxysd.config.load("smoke-32").diffusion
    sampling = {"sigma_min": config.sigma_min, "sigma_max": config.sigma_max, "rho": config.rho}
    for steps in (1, 2, 18):
        assert side.drawing.levels(sampling, steps) == levels(config, steps)


def test_its_solver_is_ours_on_a_denoiser_that_is_known(side):
    """For Gaussian data the ideal denoiser is known; guided on the way, so that branches begin and end."""
    from galaxysd.diffusion.guidance import Guided
    from galaxysd.diffusion.samplers import solve

    config = galaxysd.config.load("smoke-32").diffusion
    sampling = {"sigma_min": config.sigma_min, "sigma_max": config.sigma_max, "rho": 7.0, "guidance": 2.5, "interval": [0.05, 20.0]}
    x, features = 80 * seeds.normal(0, "solver", range(2), (3, 4, 4)), torch.tensor([[0.5, 1.0], [1.5, -1.0]])

    def ideal(x: Any, sigma: Any, features: Any) -> Any:
        s = sigma[:, None, None, None]
        return (x * 0.25 + features.sum(1)[:, None, None, None] * s**2) / (0.25 + s**2)

    denoise = Guided(ideal, features, 2.5, (0.05, 20.0))
    sigmas = levels(config, 18)
    ours = solve("heun", denoise, x, sigmas, denoise.acts).numpy()
    mine = side.drawing.heun(ideal, x.numpy(), features.numpy(), sampling, 18)
    np.testing.assert_allclose(mine, ours, atol=2e-6 * np.abs(ours).max())


def test_its_view_of_a_condition_is_ours(side):
    from galaxysd.export.goldens import requests

    asked = requests(GZ2, 64)
    view = side.drawing.View(GZ2.to_json(), {"numeric": NUMERIC, "scales": conditions.SCALES, "typical_voters": conditions.TYPICAL_VOTERS})
    mine = view.encode(asked.counts.numpy(), asked.numeric.numpy())
    np.testing.assert_allclose(mine, conditions.encode(asked, GZ2).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "words",
    ["barred spiral, 2 arms", "edge-on", "smooth round", "merger", "has-spiral-arms_yes=0.9,spiral-arm-count_2=0.8", "dust lane, edge-on"],
)
def test_it_reads_requests_as_we_do(side, words: str):
    from galaxysd.data.schema import ALIASES

    tree = side.asking.Tree(GZ2.to_json() | {"aliases": ALIASES})
    if "=" in words:
        (mine, lines), (ours, told) = tree.votes(words, 25), conditions.parse_votes(words, 25)
    else:
        (mine, lines), (ours, told) = tree.ask(words, 25), conditions.parse_ask(words, 25)
    np.testing.assert_allclose(mine, ours.counts.numpy(), rtol=1e-6)
    assert lines == told


@pytest.mark.parametrize("words", ["none", "spirral", "smooth, featured", "", "smooth round, spiral"])
def test_it_refuses_the_requests_that_we_refuse(side, words: str):
    from galaxysd.data.schema import ALIASES
    from galaxysd.errors import BadInput

    tree = side.asking.Tree(GZ2.to_json() | {"aliases": ALIASES})
    with pytest.raises(BadInput) as ours:
        conditions.parse_ask(words)
    with pytest.raises(side.opening.Refused) as mine:
        tree.ask(words, 40.0)
    assert str(mine.value).partition(":")[0] == str(ours.value).partition(":")[0]


def test_its_stretch_and_pictures_are_ours(side):
    stretch = transforms.Stretch("flux", (0.3, 0.4, 0.6), (0.6, 0.5, 0.4), (-0.2, -0.1, 0.1))
    mine = side.drawing.Stretch(stretch.to_json())
    x = 1.5 * seeds.normal(0, "stretch", range(3), (3, 8, 8))
    flux = stretch.inverse(x)
    np.testing.assert_allclose(mine.inverse(x.numpy()), flux.numpy(), rtol=1e-6)
    np.testing.assert_allclose(mine.forward(flux.numpy()), stretch.forward(flux).numpy(), atol=1e-5)
    frame = Frame("flux", 8, pixel_scale=1.25)
    pictures = side.drawing.pictures(flux.numpy(), frame.to_json()).astype(int)
    assert np.abs(pictures - transforms.pictures(flux, frame).numpy().astype(int)).max() <= 1


def run(side: Any, capsys: Any, *words: object) -> tuple[int, str]:
    capsys.readouterr()
    code = side.run_bundle.main([*map(str, words), "--threads", "1"])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_the_same_seed_gives_the_same_galaxies(side, smoke: Path, bundle: Path, tmp_path: Path, capsys):
    asked = ("--ask", "edge-on", "--numbers", "magnitude=16", "--seed", 3, "--steps", 4, "--first", 14)
    code, said = run(side, capsys, bundle, *asked, "--n", 3, "--batch", 2, "--out", tmp_path / "mine")
    assert code == 0, said
    model = galaxysd.load(smoke, dtype="fp32", device="cpu")
    rows, _ = conditions.parse_ask("edge-on")
    rows.numeric = conditions.parse_numbers("magnitude=16")
    ours = model.sample(rows.rows(torch.zeros(3, dtype=torch.int64)), index=torch.arange(14, 17), seed=3, steps=4, sampler="heun")
    with np.load(tmp_path / "mine/galaxies-00000014.npz", allow_pickle=False) as mine:
        assert mine["index"].tolist() == [14, 15, 16]
        got, want = model.stretch.forward(torch.from_numpy(mine["images"])), model.stretch.forward(torch.from_numpy(ours.flux))
    assert float((got - want).abs().max()) < 1e-4 * float(want.std())
    assert {path.name for path in (tmp_path / "mine").glob("*.png")} == {"00000014.png", "00000015.png", "00000016.png", "grid.png"}


def test_results_come_in_parts_that_follow_one_another(side, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(side.writing, "PART", 3)
    with side.writing.Parts(tmp_path, "galaxies", 10, seed=np.int64(4)) as parts:
        for index in side.drawing.batches(10, 8, 2):
            parts.add(index=np.array(index))
    found = {}
    for path in sorted(tmp_path.iterdir()):
        with np.load(path, allow_pickle=False) as part:
            found[path.name] = part["index"].tolist()
            assert part["seed"] == 4
    assert found == {"galaxies-00000010.npz": [10, 11, 12, 13], "galaxies-00000014.npz": [14, 15, 16, 17]}


def test_the_classifier_says_what_the_judge_says(side, classifier: Path, tmp_path: Path, capsys):
    """Of a set in Parquet, of an .npy of larger stamps, and of FITS."""
    from galaxysd.data import readers, writers
    from galaxysd.model.classifier import load_judge

    assert main(["simulate", "--n", "6", "--size", "64", "--preset", "tutorial", "--out", str(tmp_path / "set")]) == 0
    found, judge = readers.open_set(tmp_path / "set"), load_judge()
    galaxies, frame = found.read(), found.frame
    want = judge.fractions(galaxies, frame).numpy()
    np.save(tmp_path / "stamps.npy", galaxies.images.numpy())
    for row in range(len(galaxies)):
        writers.fits(tmp_path / f"fits/{row}.fits", galaxies, row, frame, {})
    for images in ("set", "stamps.npy", "fits"):
        out = tmp_path / f"votes-of-{images}"
        code, said = run(side, capsys, classifier, "--images", tmp_path / images, "--out", out)
        assert code == 0, said
        with np.load(out / "votes-00000000.npz", allow_pickle=False) as votes:
            assert np.abs(votes["fractions"] - want).max() < 1e-4
            assert votes["embedding"].shape == (6, 96)
        assert (out / "votes.csv").read_text().count("\n") == 7


@pytest.mark.parametrize(
    ("images", "refusal"),
    [
        (np.zeros((2, 3, 32, 32), np.int64), "int64, float32 nanomaggies a pixel expected"),
        (np.zeros((2, 4, 32, 32), np.float32), r"shape [2, 4, 32, 32], [N, 3, 32, 32] expected"),
        (np.zeros((2, 3, 40, 40), np.float32), "40 pixels on a side, 32 or a whole multiple expected"),
        (np.full((2, 3, 32, 32), np.nan, np.float32), "galaxy 0 has pixels that are NaN"),
        (np.zeros((0, 3, 32, 32), np.float32), "holds no galaxies"),
        (np.array([{}]), "a plain array of numbers, rows first, is read"),
        (np.zeros((32, 32, 3, 2), np.float32).T, "a plain array of numbers, rows first, is read"),
    ],
)
def test_bad_images_are_refused(side, classifier: Path, tmp_path: Path, capsys, images, refusal: str):
    np.save(tmp_path / "bad.npy", images)
    code, said = run(side, capsys, classifier, "--images", tmp_path / "bad.npy", "--out", tmp_path / "out")
    assert code == 2
    assert refusal in said


def linked(names: list[str], into: Path) -> int:
    """Links installed distributions, and what they need, into a site-packages; gives their size in bytes."""
    from packaging.requirements import Requirement

    done: set[str] = set()
    size = 0
    while names:
        name = names.pop().lower()
        if name in done:
            continue
        done.add(name)
        found = importlib.metadata.distribution(name)
        wanted = [Requirement(each) for each in found.requires or []]
        names += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
        for top in {path.parts[0] for path in found.files or [] if path.parts[0] != ".."}:
            if not (into / top).exists():
                (into / top).symlink_to(found.locate_file(top))
        size += sum(path.size or 0 for path in found.files or [])
    return size


def test_a_machine_with_neither_torch_nor_galaxysd(bundle: Path, classifier: Path, tmp_path: Path):
    """The script of the Dockerfile, in an environment that holds what requirements.txt names and nothing else."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "bare/lib").glob("python*/site-packages")
    names = [line.partition(">=")[0] for line in (SIDE / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert names == ["numpy", "onnxruntime", "Pillow"]
    size = linked(names, site)
    assert size < 200 << 20, f"{size >> 20} MB"
    environment = {"PYTHON": str(tmp_path / "bare/bin/python"), "PATH": os.environ["PATH"], "THREADS": "1"}
    command = ["sh", str(SIDE / "prove.sh"), str(bundle), str(classifier), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "proved: 16 galaxies drawn and classified without torch and galaxysd" in done.stdout
    assert "prove.sh" in next(line for line in (SIDE / "Dockerfile").read_text().splitlines() if line.startswith("RUN sh"))
    # And it notices a machine that has torch.
    environment["PYTHON"] = sys.executable
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "torch can be imported here" in done.stderr
