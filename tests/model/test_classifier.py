"""The likelihood of votes against scipy, the judge's manners, and that the judge that ships knows what it is asked about."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from galaxysd import checkpoint, seeds
from galaxysd.classify import rates
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.schema import GZ2
from galaxysd.errors import BadInput
from galaxysd.model.classifier import Classifier, concentrations, load_judge, vote_loss
from galaxysd.simulate.survey import frame, simulate
from galaxysd.train.denoise import initialise
from tests import tiny

KNOWN = ("how-rounded_round", "how-rounded_cigar", "disk-edge-on_yes", "odd-feature_irregular")
N, LARGEST = 200, 500_000


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture(scope="module")
def held_out() -> Galaxies:
    """Galaxies of a seed that nothing is trained on."""
    return simulate("tutorial", 4242, range(N), 32)


def test_loss_is_the_dirichlet_multinomial():
    stats = pytest.importorskip("scipy.stats")
    alpha = (0.2 + 30 * seeds.uniform(0, "alpha", range(6), (len(GZ2.answers),)) ** 3).double()
    counts = (25 * seeds.uniform(0, "counts", range(6), (len(GZ2.answers),)) ** 2).floor().double()
    counts[3, GZ2.slices[4]] = 0  # a question nobody was asked
    for row in range(6):
        wanted = 0.0
        for part in GZ2.slices:
            votes = counts[row, part]
            wanted -= stats.dirichlet_multinomial.logpmf(votes.numpy(), alpha[row, part].numpy(), int(votes.sum()))
            # scipy counts the ways to order the votes, which no prediction can change.
            wanted += float(torch.lgamma(votes.sum() + 1) - torch.lgamma(votes + 1).sum())
        assert float(vote_loss(alpha, counts, GZ2)[row]) == pytest.approx(wanted, rel=1e-9)


def test_a_question_nobody_was_asked_teaches_nothing():
    alpha = torch.ones(1, len(GZ2.answers), requires_grad=True)
    counts = torch.zeros(1, len(GZ2.answers))
    counts[0, GZ2.slices[0]] = torch.tensor([30.0, 9.0, 1.0])
    vote_loss(alpha, counts, GZ2).sum().backward()
    assert bool(alpha.grad[0, GZ2.slices[0]].all())
    assert not bool(alpha.grad[0, GZ2.slices[0].stop :].any())


def test_concentrations_are_fractions_times_firmness():
    logits = 2 * seeds.normal(1, "logits", range(4), (len(GZ2.answers),))
    firmness = torch.linspace(-3, 12, 4 * len(GZ2.questions)).view(4, -1)
    alpha = concentrations((logits, firmness), GZ2)
    wanted = firmness.clamp(0, 6.9).exp()
    assert torch.allclose(GZ2.voters(alpha), wanted, rtol=1e-3)
    assert float(wanted.min()) == 1.0
    assert 900 < float(wanted.max()) < 1000
    fractions = GZ2.fractions(alpha)
    assert torch.allclose(GZ2.voters(fractions), torch.ones(4, len(GZ2.questions)), atol=1e-5)
    for part in GZ2.slices:
        assert torch.allclose(fractions[:, part], torch.softmax(logits[:, part], -1), atol=1e-4)


def test_forty_votes_teach_more_than_ten():
    """At the same fractions, four times the votes pull four times as hard on a firm prediction that is wrong."""
    pulls = []
    for voters in (10.0, 40.0):
        logits = torch.zeros(1, len(GZ2.answers), requires_grad=True)
        counts = torch.zeros(1, len(GZ2.answers))
        counts[0, 0] = voters
        vote_loss(concentrations((logits, torch.full((1, len(GZ2.questions)), 6.9)), GZ2), counts, GZ2).sum().backward()
        pulls.append(float(logits.grad[0, 0]))
    assert 3.5 < pulls[1] / pulls[0] < 4


def test_embedding_is_the_layer_before():
    model = tiny.config().model
    net = Classifier(model, GZ2).requires_grad_(False)
    initialise(net, 0)
    x = seeds.normal(0, "x", range(3), (3, 8, 8))
    logits, firmness = net(x)
    embedded = net.embed(x)
    assert embedded.shape == (3, model.cond_width)
    assert torch.allclose(torch.cat((logits, firmness), 1), embedded @ net.out.weight.T + net.out.bias, atol=1e-5)
    assert not torch.allclose(embedded[0], embedded[1])


def test_larger_stamps_keep_their_flux(judge):
    """A stamp of 64 pixels is summed into 32: the judge sees the same light, and knows the same classes."""
    large = simulate("tutorial", 4242, range(64), 64)
    prepared = judge.prepare(large.images, frame("tutorial", 64))
    assert prepared.shape[-1] == judge.frame.size == 32
    flux = judge.stretch.inverse(prepared)
    assert torch.allclose(flux.sum((2, 3)), large.images.sum((2, 3)), rtol=1e-3, atol=1e-2)
    block = large.images[5, 1, 10:12, 20:22].sum()
    assert float(flux[5, 1, 5, 10]) == pytest.approx(float(block), rel=1e-4, abs=1e-4)
    found = rates(judge, large, frame("tutorial", 64))
    assert {name: found[name] for name in KNOWN if found[name][0] < 0.75} == {}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Frame("rgb", 32), "looks at flux images in g/r/i, these are rgb in g/r/i"),
        (Frame("flux", 32, bands=("u", "g", "r")), "looks at flux images in g/r/i, these are flux in u/g/r"),
        (Frame("flux", 48), r"looks at 32 px \(or whole multiples\), these are 48 px"),
        (Frame("flux", 16), r"looks at 32 px \(or whole multiples\), these are 16 px"),
    ],
)
def test_what_it_cannot_judge_is_said(judge, other: Frame, words: str):
    with pytest.raises(BadInput, match=f"judge {judge.path.stem}: {words}"):
        judge.prepare(torch.zeros(1, 3, other.size, other.size), other)


def test_a_generator_is_no_judge(tmp_path):
    run = tiny.run(tmp_path / "run", "train.steps=1").run
    with pytest.raises(BadInput, match="holds a denoiser, a classifier is needed here"):
        load_judge(run)


def test_it_gives_a_row_for_each_galaxy_whatever_its_company(judge, held_out):
    stamps = frame("tutorial", 32)
    whole = judge.fractions(held_out, stamps)
    some = torch.tensor([150, 3])
    assert torch.allclose(judge.fractions(held_out.rows(some), stamps), whole[some], atol=1e-5)
    embedded = judge.embed(held_out, stamps)
    assert embedded.shape == (N, judge.config.model.cond_width)
    assert torch.allclose(GZ2.voters(whole), torch.ones(N, len(GZ2.questions)), atol=1e-4)


def test_the_judge_that_ships_knows_the_classes_of_the_demo(judge, held_out):
    found = rates(judge, held_out, frame("tutorial", 32))
    assert {name: found[name] for name in KNOWN if found[name][0] < 0.85} == {}
    assert min(found[name][1] for name in KNOWN) >= 20


def test_the_judge_that_ships_is_small_and_was_not_trained_on_these(judge):
    assert judge.path.stat().st_size <= LARGEST
    text = str(checkpoint.read(judge.path).about["trained_on"])
    assert "'simulated'" in text
    assert "4242" not in text


def test_flux_and_colour_are_pooled_differently(judge):
    """Flux adds up over a block, display colour is averaged."""
    images = torch.full((1, 3, 64, 64), 2.0)
    flux = judge.stretch.inverse(judge.prepare(images, Frame("flux", 64)))
    assert torch.allclose(flux, torch.full((1, 3, 32, 32), 8.0), rtol=1e-4)
    painter = copy.copy(judge)
    painter.stretch, painter.frame = dataclasses.replace(judge.stretch, kind="rgb"), Frame("rgb", 32)
    grey = painter.stretch.inverse(painter.prepare(images.byte() + 100, Frame("rgb", 64)))
    assert bool((grey == 102).all())
