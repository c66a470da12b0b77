"""`python -m benchmarks train` and `sample`: a whole step and a sampled unit of a preset, beside what a user would take instead.

Peers, each in its best of eager and compiled where `--compiled` is given: the same network in plain torch modules; diffusers' UNet2DModel
of as many FLOPs (within a tenth), where it is installed; and the network's convolutions alone, which are what no fusion can take away.
All in one process, in turns, in one dtype, batch and resolution. A row is appended; `--report` prints the rows as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import contest, rows
from benchmarks.interleave import interleaved, spread
from benchmarks.rows import Row
from galaxysd import config as configs
from galaxysd import seeds
from galaxysd.config import ModelConfig
from galaxysd.diffusion.denoiser import Denoiser
from galaxysd.errors import BadInput
from galaxysd.evaluate.report import table
from galaxysd.model.layers import Conv, laid_out

STEPS = 4  # of the sampler, in a unit
WITHIN = 0.1  # of our FLOPs, for a network of another build
MOVES = {torch.ops.aten.copy_.default, torch.ops.aten.clone.default, torch.ops.aten._to_copy.default}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    device = rows.device()
    parser.add_argument("--preset", default="small-64" if device == "cuda" else "smoke-32", help="(%(default)s)")
    parser.add_argument("--batch", type=int, help="images of a train step (the preset's); a unit is of the preset's size")
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contestant (%(default)s)")
    parser.add_argument("--compiled", action="store_true", help="also each network under torch.compile, the better of both counts")
    parser.add_argument("--device", default=device)
    parser.add_argument("--report", action="store_true", help="print the table of the rows there are, as Markdown; measure nothing")


def run(args: argparse.Namespace) -> int:
    file = rows.RESULTS / f"pace-{'gpu' if args.device == 'cuda' else 'cpu'}.jsonl"
    if args.report:
        print("\n".join(report(rows.read(file))))
        return 0
    if args.rounds < 1 or (args.batch is not None and args.batch < 1):
        raise BadInput(f"--rounds {args.rounds}, --batch {args.batch}: at least 1 each")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        row = measure(args.verb, args.preset, args.batch, args.dtype, args.rounds, args.compiled, args.device)
    finally:
        torch.set_num_threads(threads)
    rows.append(file, row)
    print("\n".join(report([row])))
    return 0


def measure(verb: str, preset: str, batch: int | None, dtype: str, rounds: int, compiled: bool, device: str) -> Row:
    """One row: how many times as long as ours each peer takes, images a second, FLOPs, and copies of maps in a forward pass."""
    found, config, width = contest.denoisers(preset, dtype, device)
    batch = (batch or config.train.batch) if verb == "train" else config.sample.unit
    ours = found["ours"]
    gflop = {"ours": flops(ours, config.model, width)}
    if importlib.util.find_spec("diffusers") is not None:
        found["diffusers"] = wrapped(diffusers_like(config.model, width, gflop["ours"]), ours)
        gflop["diffusers"] = flops(found["diffusers"], config.model, width)
    names = list(found)
    if compiled:
        found |= {f"{name}, compiled": wrapped(torch.compile(laid_out(each.net, each.layout)), each) for name, each in found.items()}  # type: ignore[arg-type]
    training = verb == "train"
    contestants = contest.steps(found, config, width, batch, device) if training else contest.units(found, config, width, STEPS, device)
    convolutions = Convolutions(ours, config.model, width, batch if training else 2 * batch)
    contestants["convolutions"] = convolutions.train if training else convolutions.sample(STEPS)
    clock = contest.on_cuda if device == "cuda" else interleaved
    seconds = clock(contestants, rounds)
    best = {name: min((name, f"{name}, compiled"), key=lambda each: statistics.median(seconds.get(each, [math.inf]))) for name in names}
    mine = seconds[best["ours"]]
    peers = [*(name for name in names if name != "ours"), "convolutions"]
    return {
        "kind": "pace",
        **rows.provenance(),
        "name": verb,
        "preset": preset,
        "batch": batch,
        "dtype": str(ours.dtype).removeprefix("torch."),
        "rounds": rounds,
        "best": best,
        "ratios": {name: spread(mine, seconds[best.get(name, name)]) for name in peers},
        "img_per_s": {name: round(batch / statistics.median(each), 2) for name, each in seconds.items()},
        "gflop_forward": {name: round(value, 4) for name, value in gflop.items()},
        "copies": {name: copies(found[name], config.model, width) for name in names},
        "peak_mb": round(torch.cuda.max_memory_allocated() / 2**20) if device == "cuda" else None,
    }


def wrapped(net: nn.Module, like: Denoiser) -> Denoiser:
    """A denoiser of another network, in the dtype, the layout and on the device of one of ours."""
    place = next(like.net.parameters()).device
    made = Denoiser(laid_out(net.to(place), like.layout), like.config, like.dtype)
    made.layout = like.layout
    return made


class Diffusers(nn.Module):
    """UNet2DModel on the same unshuffled maps, conditions added to its time embedding; autocast, as it is trained."""

    def __init__(self, config: ModelConfig, features: int, width: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.unshuffle, levels = config.unshuffle, len(config.channels)
        sides = [config.image_size // config.unshuffle // 2**level for level in range(levels)]
        folded = config.image_channels * config.unshuffle**2
        attended = ["Attn" if side in config.attention else "" for side in sides]
        self.net = UNet2DModel(
            sample_size=sides[0],
            in_channels=folded,
            out_channels=folded,
            layers_per_block=config.blocks,
            block_out_channels=tuple(width * each // config.channels[0] // 8 * 8 for each in config.channels),
            down_block_types=tuple(f"{each}DownBlock2D" for each in attended),
            up_block_types=tuple(f"{each}UpBlock2D" for each in reversed(attended)),
            norm_num_groups=8,
            attention_head_dim=8,
            class_embed_type="identity",
        )
        self.features = nn.Linear(features, 4 * self.net.config.block_out_channels[0])

    def forward(self, x: Tensor, noise: Tensor, features: Tensor) -> Tensor:
        with contextlib.nullcontext() if x.dtype == torch.float32 else torch.autocast(x.device.type, x.dtype):
            labels = self.features(features)
            y: Tensor = self.net(F.pixel_unshuffle(x, self.unshuffle), 1000 * noise, class_labels=labels).sample
        return F.pixel_shuffle(y, self.unshuffle)


def diffusers_like(config: ModelConfig, features: int, gflop: float) -> Diffusers:
    """The width at which its FLOPs are nearest ours; refused where none is within a tenth."""

    def cost(width: int) -> float:
        with torch.device("meta"):
            return flops(Denoiser(Diffusers(config, features, width), configs.DiffusionConfig()), config, features, "meta")

    costs = {width: cost(width) for width in range(16, 3 * config.channels[0], 8)}
    width = min(costs, key=lambda each: abs(costs[each] - gflop))
    if abs(costs[width] / gflop - 1) > WITHIN:
        raise BadInput(f"diffusers: {costs[width]:.3f} GFLOP at its nearest width of {width}, ours has {gflop:.3f}; not within a tenth")
    return Diffusers(config, features, width)


def given(config: ModelConfig, features: int, batch: int, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """An image, a noise level and conditions for a batch."""
    x = torch.ones(batch, config.image_channels, config.image_size, config.image_size, device=device)
    return x, torch.ones(batch, device=device), torch.ones(batch, features, device=device)


def flops(denoiser: Denoiser, config: ModelConfig, features: int, device: str | None = None) -> float:
    """GFLOP of a forward pass for an image."""
    place = device or next(denoiser.net.parameters()).device
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        denoiser(*given(config, features, 1, place))
    return float(counter.get_total_flops()) / 1e9


class Copies(TorchDispatchMode):
    """Counts copies of maps from one memory layout to another."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        source = args[1] if func is torch.ops.aten.copy_.default else args[0] if args else None
        if func in MOVES and isinstance(source, Tensor) and source.dim() == 4 and _order(source) != _order(out):
            self.count += 1
        return out


def _order(x: Tensor) -> list[int]:
    """The dimensions of a map from the slowest to the fastest, without those of length 1."""
    return sorted((d for d in range(4) if x.shape[d] > 1), key=lambda d: -x.stride(d))


def copies(denoiser: Denoiser, config: ModelConfig, features: int) -> int:
    """Copies between layouts in a forward and a backward pass."""
    x, sigma, conditions = given(config, features, 2, next(denoiser.net.parameters()).device)
    x = x.to(memory_format=denoiser.layout)
    with Copies() as counter:
        denoiser(x, sigma, conditions).sum().backward()
    denoiser.net.zero_grad(set_to_none=True)
    return counter.count


class Convolutions:
    """The convolutions of a network's pass, on maps of their own: forward, and both gradients."""

    def __init__(self, denoiser: Denoiser, config: ModelConfig, features: int, batch: int) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor, tuple[int, ...], Any]] = []
        hooks = [each.register_forward_hook(self._saw) for each in denoiser.net.modules() if isinstance(each, Conv)]
        with torch.no_grad():
            denoiser(*given(config, features, batch, next(denoiser.net.parameters()).device))
        for hook in hooks:
            hook.remove()

    def _saw(self, module: Any, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1)
        weight = module.weight.detach().to(x.dtype, memory_format=torch.preserve_format)
        made = seeds.normal(0, "benchmark-map", len(self.calls), x.shape)[0].to(x)
        x = torch.empty_like(x).copy_(made)
        self.calls.append((x, weight, torch.ones_like(out), tuple(module.stride), module.padding))

    def train(self) -> None:
        """Forward and backward of all."""
        for x, weight, gradient, stride, padding in self.calls:
            F.conv2d(x, weight, None, stride, padding)
            torch.ops.aten.convolution_backward(
                gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (True, True, False)
            )  # fmt: skip

    def sample(self, steps: int) -> Callable[[], object]:
        """Forward passes of a Heun sampler of so many steps, conditional and unconditional together."""

        @torch.inference_mode()
        def call() -> None:
            for _ in range(2 * steps - 1):
                for x, weight, _, stride, padding in self.calls:
                    F.conv2d(x, weight, None, stride, padding)

        return call


def report(found: list[Row]) -> Iterator[str]:
    """Markdown: the newest row of each step, preset, dtype, batch and machine."""
    newest = {(row["name"], row["preset"], row["dtype"], row["batch"], row["card"]): row for row in found if row["kind"] == "pace"}
    if not newest:
        yield "Not measured yet: `python -m benchmarks train` and `sample` append rows."
        return
    lines = []
    for row in newest.values():

        def said(name: str, row: Row = row) -> str:
            if name not in row["ratios"]:
                return "not installed"
            each = row["ratios"][name]
            return f"{each['median']:.2f} [{each['p20']:.2f}, {each['p80']:.2f}]"

        mine = row["ratios"]["convolutions"]["median"]
        lines.append(
            [
                f"{row['name']}, `{row['preset']}`, {row['dtype']}, batch {row['batch']}", row["best"]["ours"],
                f"{row['img_per_s'][row['best']['ours']]:.1f}", said("plain"), said("diffusers"), f"{1 - mine:.0%}",
                ", ".join(f"{name} {count}" for name, count in row["copies"].items()), row["commit"][:9],
            ]
        )  # fmt: skip
    yield from table(["what", "ours", "img/s", "plain takes", "diffusers takes", "outside convolutions", "layout copies", "commit"], lines)
