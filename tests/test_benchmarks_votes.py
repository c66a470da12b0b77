"""`python -m benchmarks votes`: marginals by hand, tables found by their columns, and words for what is no table of counts."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import votes
from benchmarks.__main__ import main
from galaxysd.data.schema import GZ2, meaning
from galaxysd.errors import BadInput

TASKS = ((1, 1, 3), (2, 4, 5), (3, 6, 7), (4, 8, 9), (5, 10, 13), (6, 14, 15), (7, 16, 18), (8, 19, 24), (9, 25, 27), (10, 28, 30))
PUBLISHED = [f"t{task:02}_task_a{answer:02}_answer_count" for task, first, last in TASKS for answer in range(first, last + 1)]
PUBLISHED += ["t08_odd_feature_a38_dust_lane_count", *(f"t11_arms_number_a{answer}_n_count" for answer in (31, 32, 33, 34, 36, 37))]


def counts(**given: list[float]) -> torch.Tensor:
    """Counts of a few galaxies; keys are answers with dashes as double underscores."""
    rows = torch.zeros(len(next(iter(given.values()))), len(GZ2.answers))
    for name, values in given.items():
        rows[:, GZ2.index(name.replace("__", "-"))] = torch.tensor(values)
    return rows


def write(file, values, names=PUBLISHED, **more):
    columns = {name: values[:, GZ2.index(meaning(name))].tolist() for name in names}
    pq.write_table(pa.table({"objid": [1] * len(values)} | columns | more), file)
    return file


MADE_UP = counts(bar_yes=[8, 1, 0], bar_no=[2, 2, 0], smooth__or__featured_smooth=[0, 10, 30], smooth__or__featured_featured=[20, 10, 10])


def test_marginals_by_hand():
    found = {each.answer: each for each in votes.marginals(MADE_UP)}
    # Three votes are too few for a mean over galaxies, and count among all votes.
    assert found["bar_yes"] == votes.Marginal("bar_yes", 1, 0.8, pytest.approx(9 / 13))
    assert found["bar_no"] == votes.Marginal("bar_no", 1, pytest.approx(0.2), pytest.approx(4 / 13))
    assert found["smooth-or-featured_smooth"] == votes.Marginal("smooth-or-featured_smooth", 3, pytest.approx((0 + 0.5 + 0.75) / 3), 0.5)
    assert found["how-rounded_round"] == votes.Marginal("how-rounded_round", 0, None, None)


def test_a_table_is_found_by_its_columns(tmp_path):
    pq.write_table(pa.table({"answer": ["bar"], "odd": [1]}), tmp_path / "pictures.parquet")
    file = write(tmp_path / "votes.parquet", MADE_UP, t01_smooth_or_features_a01_smooth_fraction=[0.0, 0.5, 0.75])
    found, values = votes.real(tmp_path)
    assert found == file
    assert torch.equal(values, MADE_UP.double())
    assert torch.equal(votes.real(write(tmp_path / "ours.parquet", MADE_UP, GZ2.answers))[1], MADE_UP.double())


def test_what_is_empty_is_nobodys_vote(tmp_path):
    values = {name: MADE_UP[:, GZ2.index(name)].tolist() for name in GZ2.answers} | {"how-rounded_round": [None, None, 1]}
    pq.write_table(pa.table(values), tmp_path / "votes.parquet")
    assert votes.real(tmp_path)[1][:, GZ2.index("how-rounded_round")].tolist() == [0, 0, 1]


def test_what_is_no_table_of_counts_is_said(tmp_path):
    with pytest.raises(BadInput, match="absent: no such file or folder; give a Parquet table"):
        votes.real(tmp_path / "absent")
    with pytest.raises(BadInput, match="none of its 0 Parquet files counts the 37 answers"):
        votes.real(tmp_path)
    few = write(tmp_path / "few.parquet", MADE_UP, PUBLISHED[1:])
    with pytest.raises(BadInput, match="none of its 1 Parquet files counts the 37 answers"):
        votes.real(tmp_path)
    with pytest.raises(BadInput, match="no column counts smooth-or-featured_smooth"):
        votes.real(few)
    with pytest.raises(BadInput, match=r"holds 0.5, and votes are counted in whole people"):
        votes.real(write(tmp_path / "shares.parquet", MADE_UP / 20))
    write(tmp_path / "twin.parquet", MADE_UP)
    with pytest.raises(BadInput, match=r"shares.parquet, twin.parquet all hold counts; give the path of one"):
        votes.real(tmp_path)
    twice = write(tmp_path / "twice.parquet", MADE_UP, smooth=[1, 2, 3])
    with pytest.raises(BadInput, match=r"'t01_task_a01_answer_count' and 'smooth' both mean smooth-or-featured_smooth"):
        votes.real(twice)
    (tmp_path / "text.parquet").write_text("not one")
    with pytest.raises(BadInput, match="not a Parquet table"):
        votes.real(tmp_path / "text.parquet")


def test_ours_alone_say_what_the_option_wants(capsys):
    assert main(["votes", "--n", "40"]) == 0
    said = capsys.readouterr().out
    assert all(f"| {answer} |" in said for answer in GZ2.answers)
    assert "40 galaxies of `survey`" in said
    assert "--real-data PATH, a Parquet table of Galaxy Zoo 2 counts" in said
    assert main(["votes", "--n", "0"]) == 2
    assert main(["votes", "--n", "1", "--preset", "servey"]) == 2
    assert "did you mean survey" in capsys.readouterr().err


def test_the_real_ones_stand_beside_ours(tmp_path, capsys):
    write(tmp_path / "votes.parquet", MADE_UP)
    out = tmp_path / "table.md"
    assert main(["votes", "--n", "40", "--real-data", str(tmp_path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "beside 3 rows of votes.parquet" in said
    assert "| bar_yes |" in said
    assert "smooth-or-featured 0." in said
    assert out.read_text() == said
    assert main(["votes", "--n", "40", "--real-data", str(tmp_path), "--out", str(out)]) == 2
    assert main(["votes", "--n", "40", "--real-data", str(tmp_path / "absent")]) == 2
    capsys.readouterr()
    assert main(["votes", "--n", "40", "--real-data", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found["simulated"]), len(found["real"]), found["real_rows"]) == (37, 37, 3)
    assert {each["answer"]: each["share"] for each in found["real"]}["bar_yes"] == pytest.approx(9 / 13)


def test_the_size_of_a_stamp_changes_no_vote():
    from galaxysd.simulate.survey import simulate

    assert torch.equal(votes.simulated("survey", 3, 40), simulate("survey", 3, range(40), 32).counts)
