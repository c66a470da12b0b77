"""`python -m benchmarks classes`: rates of the rows that were asked for that class, figures that follow from them, and what is refused."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from benchmarks import classes
from benchmarks.__main__ import main
from galaxysd import sample
from galaxysd.data.schema import GZ2
from galaxysd.evaluate import conditional
from galaxysd.evaluate.features import Described
from galaxysd.sample import generate
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.judged(tmp_path_factory.mktemp("classes") / "run", "sample.steps=12")


WORDS = ["--n", "6", "--held-out", "128", "--population", "tutorial", "--device", "cpu"]


def test_a_model_that_has_learned_nothing_is_measured_whole(model, tmp_path, capsys):
    assert main(["classes", str(model), *WORDS, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["classes"]) == [*conditional.CLASSES, *conditional.REPORTED]
    assert all(each["found"]["rows"] == 6 for each in found["classes"].values())
    assert found["classes"]["ring"]["judge"]["rows"] == 0  # the tutorial has none
    assert found["classes"]["ring"]["ratio"]["ratio"] is None
    assert found["mean_over"] < 8
    assert found["settings"]["guidance"] == 2.0
    assert found["model_sha256"] == sample.load(model).digest.sha256
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == found
    pillow = importlib.util.find_spec("PIL") is not None
    assert (tmp_path / "out" / "classes.png").exists() == pillow
    assert main(["classes", str(model), *WORDS, "--out", str(tmp_path / "out")]) == 2
    assert "not empty, and nothing is overwritten" in capsys.readouterr().err
    assert main(["classes", str(model), *WORDS, "--keep", str(tmp_path / "sky"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == found["classes"]
    assert (tmp_path / "sky" / "tutorial-20000-32" / "0000000000-128" / "manifest.json").exists()
    assert main(["classes", str(model), *WORDS, "--guide", str(model), "--json"]) == 0
    led = json.loads(capsys.readouterr().out)
    assert led["settings"] == found["settings"] | {"guide_sha256": found["model_sha256"]}
    assert f"guidance 2 away from the model {found['model_sha256'][:12]}, " in classes.words(led)[0]
    assert main(["classes", str(model), *WORDS, "--fraction", "0.6", "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)
    assert asked["settings"] == found["settings"] | {"fraction": 0.6}
    assert ", asked for at 0.6, " in classes.words(asked)[0]
    said = classes.words(found)
    assert "away from" not in said[0]
    assert "asked for at" not in said[0]
    assert any(line.startswith("| face-on spiral | ") for line in said)
    assert any(line.startswith("| dust lane (reported) | ") for line in said)


def test_what_was_trained_on_is_not_held_out(model, capsys):
    assert main(["classes", str(model), *WORDS, "--held-out-seed", "1"]) == 2
    assert "was trained on tutorial of this very seed" in capsys.readouterr().err
    assert main(["classes", str(model), "--n", "0"]) == 2
    assert "--n 0" in capsys.readouterr().err
    assert main(["classes", str(model), "--fraction", "1.2"]) == 2
    assert "--fraction 1.2: of volunteers" in capsys.readouterr().err


def test_a_class_is_asked_for_at_the_fraction_given(model):
    generator = sample.load(model)
    settings = generate.Settings.of(generator.config.sample, steps=1)
    column = GZ2.index("odd-feature_ring")
    for fraction in (0.9, 0.6):
        drawn = classes.draw(generator, ["ring"], 2, 0, settings, fraction)
        assert GZ2.fractions(drawn.cond_counts)[:, column].tolist() == pytest.approx([fraction] * 2)


def crowd(*answers: str, times: int = 1) -> torch.Tensor:
    """Votes of a crowd that gives these answers and those that lead to them."""
    counts = torch.zeros(len(answers), len(GZ2.answers))
    for row, answer in enumerate(answers):
        while answer:
            column = GZ2.index(answer)
            counts[row, column] = 40
            parents = GZ2.questions[int(GZ2.owner[column])].parents
            answer = parents[-1] if parents else ""
    return counts.repeat(times, 1)


def judged(counts: torch.Tensor, seen: torch.Tensor, asked: bool) -> Described:
    """Galaxies of these votes, in which the judge sees those."""
    n, none = len(counts), torch.full((len(counts), 5), torch.nan)
    even = torch.full_like(seen, 0.01)
    where = torch.stack((torch.arange(n) % 7, torch.arange(n) % 5), 1).float()
    frame = tiny.Blobs.frame
    conditions = counts if asked else None
    return Described(
        frame, [str(i) for i in range(n)], counts, none, conditions, None, {}, torch.empty(n, 0), GZ2.fractions(seen + even), where
    )


def test_rates_are_of_the_rows_that_were_asked_for_the_class():
    """Arms that were asked for are spirals too, and still no spiral's rate."""
    asked = torch.cat((crowd("has-spiral-arms_yes", times=20), crowd("bar_yes", times=20), crowd("spiral-arm-count_2", times=20)))
    seen = asked.clone()
    seen[:5] = crowd("has-spiral-arms_no")
    seen[40:] = crowd("has-spiral-arms_no")  # no spiral where two arms were asked for
    real = crowd("has-spiral-arms_yes", "bar_yes", "spiral-arm-count_2", "how-rounded_cigar", times=40)
    half = real.clone()
    half[1::8] = crowd("bar_no")  # the judge misses every second bar
    found = classes.score(judged(asked, seen, True), judged(real, half, False), ["face-on spiral", "barred", "2 arms"], 20, 0)
    spiral, bar, arms = found["classes"].values()
    assert (spiral["found"]["hits"], spiral["found"]["rows"]) == (15, 20)
    assert (bar["judge"]["hits"], bar["judge"]["rows"]) == (20, 40)
    assert bar["ratio"]["ratio"] == 2.0
    assert arms["counted"] is False
    assert arms["found"]["hits"] == 0
    assert found["mean_ratio"] == pytest.approx((0.75 + 2.0) / 2)
    assert found["mean_over"] == 2
    assert found["lowest_ratio"] == 0.75
    assert 0 < found["coverage"]["value"] <= 1


def test_nothing_is_said_of_a_mix_that_the_held_out_lack():
    asked, real = crowd("odd-feature_ring", times=20), crowd("how-rounded_cigar", times=40)
    found = classes.score(judged(asked, asked, True), judged(real, real, False), ["ring"], 20, 0)
    assert found["coverage"] is None
    assert found["mean_ratio"] is None
    whole = {"n": 20, "model": "m", "judge": "j", "population": "p", "precision": "float32", "held_out": {"n": 40, "seed": 1, "size": 8}}
    settings = {"sampler": "heun", "steps": 2, "guidance": 2.0}
    said = classes.words(found | whole | {"settings": settings})
    assert "No class has a ratio." in said
    assert "Coverage: too few held-out galaxies in the mix that was asked for." in said
