"""Every setting of a model and its training, on one page: frozen dataclasses, read as preset < file < `--set a.b=v`."""

from __future__ import annotations

import ast
import copy
import dataclasses
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from galaxysd import files
from galaxysd.errors import BadInput, GalaxySDError, nearest

SCHEMA_VERSION = 1
PRESETS = Path(__file__).with_name("presets")
# Far above any use: a stranger's checkpoint that asks for more is refused before it takes memory or time.
LIMITS = {
    "image_size": 8192,
    "image_channels": 64,
    "unshuffle": 64,
    "blocks": 64,
    "group_width": 4096,
    "head_width": 4096,
    "cond_width": 1 << 22,
}
WIDTH_LIMIT, STEPS_LIMIT, NOISE_LIMIT = 1 << 22, 10_000, 1e6
# Settings of training that came after the first checkpoints, as they were before.
LATER: dict[str, Any] = {"accumulate": 1, "only": (), "compile": "auto", "recompute": False}
UNIT_LIMIT = 1 << 26  # values of the images of one unit of sampling


@dataclass(frozen=True)
class ModelConfig:
    """The UNet. Widths are channels at each resolution, from the finest down."""

    image_size: int = 32
    image_channels: int = 3
    unshuffle: int = 2  # image pixels folded into channels before the stem, on a side
    channels: tuple[int, ...] = (64, 128)
    blocks: int = 2  # residual blocks at each resolution
    attention: tuple[int, ...] = (8,)  # map sides that have attention, counted after the unshuffle
    group_width: int = 8  # channels in a group of GroupNorm
    head_width: int = 64
    qk_norm: bool = False  # attention compares queries and keys over their root mean square, times a learnt gain
    cond_width: int = 256  # width of the embedding of noise level and conditions


@dataclass(frozen=True)
class ConditionConfig:
    """How labels reach the network, and how often they are withheld in training."""

    schema: str = "gz2"
    drop_all: float = 0.1  # share of rows trained without any condition: the unconditional branch of guidance
    drop_question: float = 0.1  # chance for each question, and for each numeric column, to be unknown


@dataclass(frozen=True)
class DiffusionConfig:
    """EDM (Karras et al. 2022): preconditioning, the training law of noise levels, and the sampler's range."""

    sigma_data: float = 0.5
    p_mean: float = -0.4  # ln sigma ~ N(p_mean, p_std^2)
    p_std: float = 1.4
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0


@dataclass(frozen=True)
class TrainConfig:
    """The loop. It stops at whichever of steps, images and minutes comes first; 0 means no such limit."""

    batch: int = 64
    steps: int = 0
    images: int = 0
    minutes: float = 0.0
    learning_rate: float = 1e-3
    warmup_images: int = 2_000
    decay: float = 0.5  # share of the run, at its end, over which the learning rate falls to zero
    weight_decay: float = 0.0
    ema_images: float = 10_000.0  # averaging length of the EMA, at most; shorter while the run is young
    clip: float = 1.0  # largest norm of a gradient
    seed: int = 0
    save_minutes: float = 5.0
    save_steps: int = 0  # also save every so many steps
    log_steps: int = 50
    grid_minutes: float = 0.0  # a sample grid every so often; 0 only at the end
    dtype: str = "auto"  # auto, bf16, fp32
    layout: str = "auto"  # auto, nhwc, nchw
    threads: int = 0  # CPU threads; 0 means as many as torch would take
    only: tuple[str, ...] = ()  # what parameters' names begin with that are trained; all where empty
    accumulate: int = 1  # parts a rank computes a step in, to save memory
    recompute: bool = False  # compute what norms give again in backward instead of keeping it: saves memory, costs a little time
    compile: str = "auto"  # auto (on CUDA), on, off
    flips: bool = True  # random symmetry of the square, and no more than a mirror when the population is pose-aligned
    aligned: bool = False


@dataclass(frozen=True)
class SampleConfig:
    """What `galaxysd sample` does when not told otherwise."""

    sampler: str = "heun"
    steps: int = 18
    guidance: float = 1.5
    interval: tuple[float, float] = (0.05, 20.0)  # noise levels between which guidance acts
    unit: int = 16  # galaxies in the fixed padded unit of work


@dataclass(frozen=True)
class Config:
    """A whole model: what a checkpoint carries in its header."""

    name: str = "smoke-32"
    schema_version: int = SCHEMA_VERSION
    model: ModelConfig = field(default_factory=ModelConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        for name, usual in LATER.items():  # said only where used: what was written before they could be set stays the same
            if values["train"][name] == usual:
                del values["train"][name]
        return values


def presets() -> list[str]:
    """The names of the presets that ship."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load(
    preset: str | None = None, file: Path | None = None, overrides: typing.Sequence[str] = (), base: typing.Mapping[str, Any] | None = None
) -> Config:
    """Reads a config: base or preset < file < `a.b=value` overrides; then checks it as a whole."""
    values: dict[str, Any] = dict(copy.deepcopy(base or {}))
    if preset is not None:
        if preset not in presets():
            raise GalaxySDError(f"preset {preset}: no such preset{nearest(preset, presets())}")
        _merge(values, _toml(PRESETS / f"{preset}.toml"))
        values["name"] = preset
    if file is not None:
        _merge(values, _toml(file))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise GalaxySDError(f"--set {override}: expected section.key=value")
        tree: Any = _literal(text)
        for part in reversed(name.strip().split(".")):
            tree = {part: tree}
        _merge(values, tree)
    return from_json(values)


def from_json(values: dict[str, Any]) -> Config:
    """Builds and checks a config from nested plain values; an unknown key fails with the nearest name."""
    if not isinstance(values, dict):
        raise BadInput(f"config: {values!r} is not a table of settings")
    version = values.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise BadInput(f"schema_version: {version}, this galaxysd reads {SCHEMA_VERSION}; use the galaxysd that wrote it")
    config = _build(Config, values, "")
    check(config)
    return config


def check(config: Config) -> None:
    """Refuses what cannot work, in words."""
    model = config.model
    for number, most in LIMITS.items():
        if getattr(model, number) < 1:
            raise GalaxySDError(f"model.{number}: {getattr(model, number)}; must be at least 1")
        if getattr(model, number) > most:
            raise GalaxySDError(f"model.{number}: {getattr(model, number)}; must be at most {most}")
    if not model.channels:
        raise GalaxySDError("model.channels: empty; give one width for each resolution")
    if len(model.channels) > LIMITS["image_size"].bit_length() or max(model.channels) > WIDTH_LIMIT:
        raise GalaxySDError(
            f"model.channels: {len(model.channels)} resolutions, up to {max(model.channels)} channels; "
            f"at most {LIMITS['image_size'].bit_length()} and {WIDTH_LIMIT}"
        )
    for width in model.channels:
        if width < 1 or width % model.group_width:
            up = max(1, -(-width // model.group_width)) * model.group_width
            raise GalaxySDError(f"model.channels: {width} is not a multiple of model.group_width ({model.group_width}); use {up}")
    coarsest = model.unshuffle * 2 ** (len(model.channels) - 1)
    if model.image_size % coarsest:
        raise GalaxySDError(
            f"model.image_size: {model.image_size} does not divide by {coarsest} "
            f"(unshuffle {model.unshuffle} and {len(model.channels)} resolutions); use {-(-model.image_size // coarsest) * coarsest}"
        )
    for level, width in enumerate(model.channels):
        side = model.image_size // model.unshuffle // 2**level
        if side in model.attention and width % model.head_width:
            raise GalaxySDError(
                f"model.channels: {width} at map side {side} has attention but is not a multiple of model.head_width ({model.head_width})"
            )
    train, diffusion, sample, condition = config.train, config.diffusion, config.sample, config.condition
    for name in ("batch", "accumulate"):
        if getattr(train, name) < 1:
            raise GalaxySDError(f"train.{name}: {getattr(train, name)}; must be at least 1")
    for name, allowed in (("dtype", ("auto", "bf16", "fp32")), ("layout", ("auto", "nhwc", "nchw")), ("compile", ("auto", "on", "off"))):
        if getattr(train, name) not in allowed:
            raise GalaxySDError(f"train.{name}: {getattr(train, name)!r}{nearest(getattr(train, name), allowed)}")
    for name in ("steps", "images", "minutes", "learning_rate", "decay", "save_minutes", "threads", "clip", "ema_images"):
        if not 0 <= getattr(train, name) < math.inf:
            raise GalaxySDError(f"train.{name}: {getattr(train, name)}; must not be negative, and finite")
    if not 0 < diffusion.sigma_min < diffusion.sigma_max:
        raise GalaxySDError(f"diffusion: sigma_min {diffusion.sigma_min} must be positive and below sigma_max {diffusion.sigma_max}")
    if diffusion.sigma_max > NOISE_LIMIT:
        raise GalaxySDError(f"diffusion.sigma_max: {diffusion.sigma_max}; must be at most {NOISE_LIMIT:g}")
    if diffusion.sigma_data <= 0 or not 1 <= diffusion.rho <= 100:
        raise GalaxySDError(f"diffusion: sigma_data {diffusion.sigma_data} must be positive, rho {diffusion.rho} lie in [1, 100]")
    for name in ("drop_all", "drop_question"):
        if not 0 <= getattr(condition, name) <= 1:
            raise GalaxySDError(f"condition.{name}: {getattr(condition, name)}; must lie in [0, 1]")
    if sample.steps < 1 or sample.unit < 1:
        raise GalaxySDError(f"sample: steps {sample.steps} and unit {sample.unit} must be at least 1")
    if sample.steps > STEPS_LIMIT:
        raise GalaxySDError(f"sample.steps: {sample.steps}; must be at most {STEPS_LIMIT}")
    values = sample.unit * model.image_channels * model.image_size**2
    if values > UNIT_LIMIT:
        raise GalaxySDError(
            f"sample.unit: {sample.unit} images of {model.image_size} pixels hold {values} values, more than {UNIT_LIMIT}; lower it"
        )


def _toml(path: Path) -> dict[str, Any]:
    try:
        with files.explained(path):
            return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such config file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not valid TOML ({error})") from error


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _build(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise GalaxySDError(f"{where or 'config'}: {values!r} is not a table of settings")
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise GalaxySDError(f"{where}{name}: no such setting{nearest(name, hints)}")
    return kind(**{name: _value(hints[name], value, f"{where}{name}") for name, value in values.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, f"{where}.")
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise GalaxySDError(f"{where}: {value!r} is not a list")
        inner = typing.get_args(kind)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) != len(value):
            raise GalaxySDError(f"{where}: {len(value)} values, {len(kinds)} expected")
        return tuple(_value(each, item, where) for each, item in zip(kinds, value, strict=True))
    if kind is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if kind is float and type(value) is float and not math.isfinite(value):
        raise GalaxySDError(f"{where}: {value}; a finite number is needed")
    if isinstance(kind, types.UnionType):
        kind = typing.get_args(kind)
    if type(value) is not kind and not (isinstance(kind, tuple) and type(value) in kind):
        name = getattr(kind, "__name__", str(kind))
        raise GalaxySDError(f"{where}: {value!r} is a {type(value).__name__}, {name} expected")
    return value
