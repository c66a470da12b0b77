from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.transforms import symmetry
from galaxysd.errors import BadInput
from galaxysd.evaluate import faults
from galaxysd.evaluate.features import coarse
from galaxysd.evaluate.memorisation import among, closest, compare, nearest

SOFT = torch.full((3,), 0.02)


@pytest.fixture(scope="module")
def sets(survey: Callable[..., Galaxies], frame: Frame) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Coarse pixels of 60 new, 100 held-out and 150 training galaxies, and the training ids."""
    new, real, train = survey(60, 1, "new"), survey(100, 2, "real"), survey(150, 3, "train")
    return (*(coarse(each.images, frame, SOFT) for each in (new, real, train)), train.ids)


def chunks(train: Tensor, ids: list[str], size: int = 64) -> Iterator[tuple[Tensor, list[str]]]:
    for first in range(0, len(ids), size):
        yield train[first : first + size], ids[first : first + size]


def test_planted_copies_are_found_however_they_are_turned(sets: tuple[Tensor, Tensor, Tensor, list[str]]) -> None:
    new, real, train, ids = sets
    new = new.clone()
    new[10:18] = symmetry(train[140:148], torch.arange(8))
    mine, theirs = nearest(new, chunks(train, ids)), nearest(real, chunks(train, ids))
    assert mine.ids[10:18] == ids[140:148]
    assert mine.distance[10:18].tolist() == [0.0] * 8
    assert torch.equal(symmetry(new[10:18], mine.code[10:18]), train[140:148])
    found = compare(mine, theirs, [f"new-{row}" for row in range(60)])
    assert found["suspected_copies"] == 8
    assert {(row["id"], row["train_id"]) for row in found["nearest"][:8]} == {(f"new-{10 + k}", ids[140 + k]) for k in range(8)}


def test_one_copy_is_named_though_the_set_as_a_whole_does_not_fail(sets: tuple[Tensor, Tensor, Tensor, list[str]]) -> None:
    new, real, train, ids = sets
    new = torch.cat((new[:59], train[77:78]))
    found = compare(nearest(new, chunks(train, ids)), nearest(real, chunks(train, ids)), [str(row) for row in range(60)])
    assert found["suspected_copies"] == 1
    assert not found["exceeds_holdout"]
    assert found["nearest"][0]["id"] == "59"
    assert found["nearest"][0]["train_id"] == ids[77]


@pytest.mark.parametrize("kind", faults.COPIES)
def test_copies_in_disguise_are_found(kind: str, survey: Callable[..., Galaxies], frame: Frame) -> None:
    new, real, train = survey(60, 1, "new"), survey(100, 2, "real"), survey(150, 3, "train")
    chunk = coarse(train.images, frame, SOFT), train.ids
    theirs = closest(coarse(real.images, frame, SOFT), [chunk])
    good = compare(closest(coarse(new.images, frame, SOFT), [chunk]), theirs, new.ids)
    assert not good["exceeds_holdout"]
    assert good["suspected_copies"] == 0
    bad = faults.copies(new, train, kind, 0)
    mine = closest(coarse(bad.images, frame, SOFT), [chunk])
    right = sum(one == other for one, other in zip(mine.ids, faults.copied_from(60, train, 0), strict=True))
    assert right >= 40, kind  # of 60: a Gaussian turned by a few degrees is often another one of the set
    assert compare(mine, theirs, new.ids)["exceeds_holdout"]


def test_each_class_is_counted_by_itself(sets: tuple[Tensor, Tensor, Tensor, list[str]]) -> None:
    new, real, train, ids = sets
    new = torch.cat((train[:10], new[10:]))
    classes = ["ring"] * 10 + ["cigar"] * 40 + [None] * 10
    found = compare(nearest(new, chunks(train, ids)), nearest(real, chunks(train, ids)), [""] * 60, classes)
    assert found["by_class"]["ring"]["rate"] == 1.0
    assert found["by_class"]["cigar"]["rate"] < 0.2
    assert set(found["by_class"]) == {"ring", "cigar"}


def test_distances_are_those_of_the_definition(sets: tuple[Tensor, Tensor, Tensor, list[str]]) -> None:
    new, _, train, ids = sets
    found = nearest(new[:5], chunks(train, ids, 40))
    for row in range(5):
        turned = torch.cat([symmetry(new[row : row + 1], torch.tensor([code])) for code in range(8)])
        table = (turned[:, None] - train[None]).square().flatten(2).mean(2).sqrt()  # [8, T]
        assert float(found.distance[row]) == pytest.approx(float(table.min()), rel=1e-5)
        assert found.ids[row] == ids[int(table.min(0).values.argmin())]


def test_many_copies_exceed_the_holdout_and_new_galaxies_do_not(sets: tuple[Tensor, Tensor, Tensor, list[str]]) -> None:
    new, real, train, ids = sets
    theirs = nearest(real, chunks(train, ids))
    names = [str(row) for row in range(60)]
    assert not compare(nearest(new, chunks(train, ids)), theirs, names)["exceeds_holdout"]
    copied = torch.cat((new[:30], train[:30] + 0.001))
    found = compare(nearest(copied, chunks(train, ids)), theirs, names)
    assert found["exceeds_holdout"]
    assert found["suspected_copies"] == 30
    assert found["closer_than_holdout_1st_percentile"]["rate"] >= 0.5
    assert found["generated"]["rows"] == 60
    assert found["held_out"]["rows"] == 100


def test_how_far_galaxies_lie_from_each_other():
    pixels = seeds.normal(1, "test-apart", range(5), (3, 8, 8))
    pixels[3] = pixels[0].transpose(-1, -2)  # a mirrored copy
    apart = among(pixels)
    want = [min(float((symmetry(pixels[i : i + 1], torch.tensor([turn]))[0] - pixels[j]).square().mean().sqrt())
                for turn in range(8) for j in range(5) if j != i) for i in range(5)]  # fmt: skip
    assert apart.tolist() == pytest.approx(want, abs=1e-3)
    assert want[0] == want[3] == 0
    with pytest.raises(BadInput, match="1 galaxies: at least 2"):
        among(pixels[:1])
