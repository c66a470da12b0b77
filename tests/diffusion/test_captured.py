"""Captured steps without a GPU: a tracer that freezes what is no tensor stands in for the graph."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import galaxysd
from galaxysd.config import DiffusionConfig
from galaxysd.diffusion.captured import Captured
from galaxysd.diffusion.denoiser import Denoiser, frozen
from galaxysd.diffusion.guidance import Guided
from galaxysd.diffusion.samplers import levels, solve
from galaxysd.model.unet import UNet
from tests import tiny

FEATURES = 6


class Traced:
    """Records as a CUDA graph does: the operations on the very tensors they were called with; a number is the number it was then."""

    def __init__(self) -> None:
        self.recorded, self.replayed = 0, 0
        self.inside = threading.Lock()

    def __call__(self, work, device):
        self.recorded += 1
        graph = make_fx(lambda: work())()
        out = graph()

        def replay() -> None:
            assert self.inside.acquire(blocking=False), "two replays at once on the same buffers"
            self.replayed += 1
            out.copy_(graph())
            self.inside.release()

        out.fill_(torch.nan)  # until a replay writes it
        return replay, out


def network(*settings: str) -> UNet:
    """A tiny network in which every weight counts."""
    net = UNet(tiny.config(*settings).model, FEATURES)
    for k, parameter in enumerate(net.parameters()):
        values = torch.arange(parameter.numel(), dtype=torch.float32)
        parameter.data += 0.05 * torch.sin(values * (0.7 + 0.01 * k)).reshape(parameter.shape)
    return net


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return frozen(Denoiser(network(), DiffusionConfig()))


def given(times: float, rows: int = 4):
    x = torch.linspace(-1, 1, rows * 3 * 64).reshape(rows, 3, 8, 8) * times
    return x, torch.linspace(0.1, 2.0, rows) * times, torch.linspace(0, 1, rows * FEATURES).reshape(rows, FEATURES) * times


@torch.inference_mode()
def test_a_second_unit_gets_its_own_result_from_the_first_ones_graph(denoiser):
    capture = Traced()
    captured = Captured(denoiser, capture)
    kept = []
    for times in (1.0, 2.0, 0.5):  # other pixels, other noise levels, other features
        kept.append((captured(*given(times)), denoiser(*given(times))))
    assert all(torch.equal(found, wanted) for found, wanted in kept)  # each still what it was, after later replays
    assert (capture.recorded, capture.replayed) == (1, 3)
    captured(*given(1.0, rows=8))
    assert (capture.recorded, capture.replayed) == (2, 4)


def test_what_was_given_is_read_when_it_is_given(denoiser):
    captured = Captured(denoiser, Traced())
    x, sigma, features = given(1.0)
    before = captured(x, sigma, features)
    sigma *= 3
    changed = captured(x, sigma, features)
    with torch.inference_mode():
        assert torch.equal(changed, denoiser(x, sigma, features))
    assert not torch.equal(changed, before)


@torch.inference_mode()
def test_a_guided_way_takes_two_graphs_and_ends_in_the_same_image(denoiser):
    capture = Traced()
    x, _, features = given(80.0)
    ends = []
    for evaluate in (denoiser, Captured(denoiser, capture)):
        denoise = Guided(evaluate, features, 2.0, (0.1, 10.0))
        ends.append(solve("heun", denoise, x, levels(DiffusionConfig(), 5), denoise.acts))
    assert torch.equal(*ends)
    assert (capture.recorded, capture.replayed) == (2, 9)


def test_threads_share_a_graph_one_call_at_a_time(denoiser):
    capture = Traced()
    captured = Captured(denoiser, capture)
    scales = [0.5 + 0.25 * k for k in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda times: captured(*given(times)), scales))
    with torch.inference_mode():
        assert all(torch.equal(each, denoiser(*given(times))) for each, times in zip(found, scales, strict=True))
    assert capture.recorded == 1


def test_galaxies_of_several_units_are_the_same_bytes_by_captured_steps(tmp_path):
    tiny.run(tmp_path / "run", "train.steps=10")
    plain = galaxysd.load(tmp_path / "run", dtype="fp32", device="cpu")
    capture, index = Traced(), torch.tensor([1, 4, 9, 10])
    captured = plain.guided_by(None)
    captured.evaluate = Captured(plain.denoiser, capture)
    votes = {"smooth-or-featured_smooth": [0.9, 0.1, 0.5, 0.3], "smooth-or-featured_featured": [0.1, 0.9, 0.5, 0.7]}
    for guide in (None, captured):
        ways = (plain if guide is None else plain.guided_by(plain), captured.guided_by(guide))
        one, other = (each.sample(votes, seed=3, index=index, guidance=2.0) for each in ways)
        assert one.flux.tobytes() == other.flux.tobytes()
    assert capture.recorded == 2  # of a unit, and of a unit twice


@pytest.mark.gpu
def test_a_captured_graph_gives_the_bytes_of_the_plain_call():
    """The same kernels, launched or replayed: of each unit its own bytes."""
    model = Denoiser(network("model.head_width=16"), DiffusionConfig(), torch.bfloat16)
    model.layout = torch.channels_last
    here = frozen(model).to("cuda")
    captured = Captured(here)
    with torch.inference_mode():
        for times in (1.0, 2.0, 0.5):
            on_card = tuple(each.cuda() for each in given(times))
            assert torch.equal(captured(*on_card), here(*on_card))
