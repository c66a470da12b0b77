"""`python -m benchmarks steps`: points are not drawn twice, costs are counted, a table and a picture follow from the rows."""

from __future__ import annotations

import importlib.util
import json
import math

import pytest

from benchmarks import curve, rows, steps
from benchmarks.__main__ import main
from galaxysd import sample
from galaxysd.config import Config
from galaxysd.diffusion.samplers import levels
from tests import tiny

WORDS = ["--n", "3", "--held-out", "128", "--population", "tutorial", "--device", "cpu"]
without_matplotlib = importlib.util.find_spec("matplotlib") is None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.judged(tmp_path_factory.mktemp("steps") / "run")


def test_points_reach_from_four_evaluations_to_thirty_five_and_each_has_a_name():
    names = [point.name for point in steps.POINTS]
    assert len(set(names)) == len(names)
    for solver in steps.STEPS:
        mine = [point.evaluations for point in steps.POINTS if point.solver == solver]
        assert (min(mine) in (4, 5), max(mine)) == (True, 35)
    assert {point.interval for point in steps.POINTS} == set(steps.INTERVALS)


def test_an_evaluation_under_guidance_is_two_passes():
    config = Config()
    guided = sum(config.sample.interval[0] <= sigma <= config.sample.interval[1] for sigma in levels(config.diffusion, 12))
    assert 0 < guided < 12

    def cost(solver: str, number: int, interval: str) -> int:
        return steps.passes(steps.Point(solver, number, interval).settings(config, None), config)

    assert cost("dpmpp_2m", 12, "own") == 12 + guided
    assert cost("euler", 12, "never") == 12
    assert cost("heun", 7, "never") == 13
    assert cost("euler", 12, "always") == 24
    assert steps.Point("euler", 12, "always").settings(config, 3.0).interval == (0.0, config.diffusion.sigma_max)
    assert steps.Point("euler", 12, "middle").settings(config, 3.0).guidance == 3.0


def test_rows_are_appended_as_points_end_and_not_drawn_again(model, tmp_path, capsys):
    words = ["steps", str(model), *WORDS, "--results", str(tmp_path / "rows.jsonl"), "--points"]
    assert main([*words, "dpmpp_2m-8-never", "euler-4"]) == 0
    found = rows.read(tmp_path / "rows.jsonl")
    assert [row["point"] for row in found] == ["euler-4", "dpmpp_2m-8-never"]
    euler, never = found
    assert euler["model_sha256"] == sample.load(model).digest.sha256
    assert [euler["settings"][name] for name in ("sampler", "steps", "guidance", "interval")] == ["euler", 4, 2.0, [0.05, 20.0]]
    assert (never["settings"]["guidance"], never["passes"], euler["evaluations"]) == (1.0, 8, 4)
    assert all(each["found"]["rows"] == 3 for each in euler["classes"].values())
    assert euler["frechet"]["rows"] == euler["coverage"]["rows"] >= 10
    assert euler["frechet"]["value"] > euler["frechet"]["floor"] > 0  # it has learned nothing
    before = (tmp_path / "rows.jsonl").read_bytes()
    capsys.readouterr()
    assert main([*words, "euler-4"]) == 0
    assert "euler-4: has its row already" in capsys.readouterr().out
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert main([*words, "euler-4", "euler-6", "dpmpp_2m-4", "--piece", "1e-9"]) == 75  # a call gets on by one point at least
    assert "before point dpmpp_2m-4; the same command goes on" in capsys.readouterr().err
    assert [row["point"] for row in rows.read(tmp_path / "rows.jsonl")] == ["euler-4", "dpmpp_2m-8-never", "euler-6"]
    assert main([*words, "euler-4", "--guide", str(model)]) == 0  # itself: another way of drawing, and no difference to lead away from
    led = rows.read(tmp_path / "rows.jsonl")[-1]
    assert (led["point"], led["guide_sha256"], led["passes"]) == ("euler-4", led["model_sha256"], 6)
    assert led["digest"] != euler["digest"]
    assert main(["steps", "--results", str(tmp_path / "rows.jsonl"), "--report"]) == 0
    said = capsys.readouterr().out
    assert f"3 galaxies of each of {euler['mean_over']} classes a point" in said
    assert f"led away from {led['model_sha256'][:12]}, 3 galaxies" in said
    assert f"Two held-out halves: frechet {euler['frechet']['floor']:.3g} [" in said
    assert "| euler | 4 | 4 | " in said
    assert "| dpmpp_2m | 8 | 8 | 8 | none | " in said
    assert f"(N {euler['coverage']['rows']} a side)" in said


def row(point: steps.Point, mean_ratio: float, digest: str) -> rows.Row:
    """A row as `measure` writes it, with made-up figures."""
    settings = point.settings(Config(), None)
    spread = {"floor": 0.9, "floor_range": [0.85, 0.95], "rows": 200}
    about = {"machine": {"versions": {"torch": "2"}}, "commit": "0" * 40, "dirty": False, "time": "", "device": "cpu", "card": "a CPU"}
    how = {"sampler": point.solver, "steps": point.steps, "guidance": settings.guidance, "interval": list(settings.interval)}
    return {
        "kind": "steps", **about, "point": point.name, "digest": digest, "interval_name": point.interval, "model": "demo-32",
        "model_sha256": "a" * 64, "guide_sha256": None, "settings": how | {"precision": "float32", "seed": 0},
        "score": {"n": 50, "population": "atlas", "held_out": 9}, "evaluations": point.evaluations,
        "passes": steps.passes(settings, Config()), "img_per_s": 4.0, "mean_ratio": mean_ratio, "margin": 0.03, "mean_over": 8,
        "lowest_ratio": 0.1, "classes": {}, "coverage": {"value": mean_ratio - 0.1, **spread},
        "frechet": {"value": 2 - mean_ratio, **spread},
    }  # fmt: skip


def test_the_newest_row_of_a_digest_counts_and_models_are_not_mixed(tmp_path):
    point, file = steps.Point("heun", 5), tmp_path / "rows.jsonl"
    for each in (row(point, 0.5, "a"), row(point, 0.6, "a"), row(point, 0.7, "b") | {"model_sha256": "b" * 64}):
        rows.append(file, json.loads(json.dumps(each)))
    found = steps.groups(rows.read(file))
    assert [[each["mean_ratio"] for each in group] for group in found.values()] == [[0.6], [0.7]]
    said = list(steps.report(found))
    assert len([line for line in said if line.startswith("| heun | 5 | 9 | ")]) == 2
    assert any("| 0.600 ± 0.030 | 0.10 | 0.5 | 1.4 | 4 |" in line for line in said)


def test_the_margin_is_that_of_the_galaxies_drawn():
    def each(hits: int, of: int, own: float) -> dict[str, object]:
        return {"found": {"hits": hits, "rows": of}, "judge": {"rate": own}, "ratio": {"ratio": hits / of / own}}

    none = {"found": {"hits": 0, "rows": 4}, "judge": {"rate": None}, "ratio": {"ratio": None}}
    # Two classes of half the rate: the variance of a share of 1/2 over 96 galaxies, over the judge's rate squared.
    assert steps.margin({"a": each(48, 96, 0.5), "b": each(48, 96, 0.5), "c": none}) == pytest.approx(1.96 * math.sqrt(2 / 96) / 2)
    assert steps.margin({"a": each(4, 4, 1.0)}) > 0.2  # no certainty from few


@pytest.mark.skipif(without_matplotlib, reason="needs matplotlib (galaxysd[eval])")
def test_the_curve_is_drawn_from_rows_and_replaces_nothing(tmp_path, capsys):
    from PIL import Image

    file, picture = tmp_path / "rows.jsonl", tmp_path / "curve.png"
    for number, point in enumerate(steps.POINTS):
        rows.append(file, row(point, 1 - 1.5 / point.evaluations + 0.01 * (point.solver == "heun"), str(number)))
    rows.append(file, row(steps.POINTS[0], 0.4, "x") | {"model_sha256": "b" * 64})
    words = ["steps", "--results", str(file), "--plot", str(picture)]
    assert main(words) == 0
    assert f"drawn: {picture}" in capsys.readouterr().out
    with Image.open(picture) as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24)}
    wanted = [tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5)) for colour, _ in curve.SOLVERS.values()]
    assert all(colour in colours for colour in wanted)
    assert (tmp_path / "curve-2.png").exists()
    before = picture.read_bytes()
    assert main(words) == 2
    assert "exists already, and nothing is overwritten" in capsys.readouterr().err
    assert picture.read_bytes() == before


def test_what_cannot_be_measured_is_said(model, tmp_path, capsys):
    results = ["--results", str(tmp_path / "rows.jsonl")]
    for words, said in (
        ([str(model), "--points", "hoin-9"], "--points hoin-9: no such point; did you mean heun-9?"),
        ([str(model), "--n", "0"], "--n 0"),
        ([], "MODEL: none given"),
        (["--plot", str(tmp_path / "curve.png")], "no rows to draw"),
        ([str(model), *WORDS, "--held-out-seed", "1", "--points", "euler-4"], "was trained on tutorial of this very seed"),
    ):
        assert main(["steps", *words, *results]) == 2
        assert said in capsys.readouterr().err
    assert main(["steps", "--report", *results]) == 0
    assert "Not measured yet" in capsys.readouterr().out
