"""What a checkpoint's header says of its model, read and checked as a whole before any network is built."""

from __future__ import annotations

from dataclasses import dataclass

from galaxysd.checkpoint import Checkpoint
from galaxysd.config import Config, from_json
from galaxysd.data.galaxies import Frame
from galaxysd.data.schema import Schema, schema
from galaxysd.data.transforms import Stretch
from galaxysd.errors import BadInput, GalaxySDError


@dataclass(frozen=True)
class Described:
    """The config, labels, frame and stretch of a trained model."""

    config: Config
    labels: Schema
    frame: Frame
    stretch: Stretch


def described(source: Checkpoint, kind: str) -> Described:
    """Reads the description of a model of this kind ("denoiser", "classifier"); its parts must agree with one another."""
    about, path = source.about, source.path
    if about["kind"] != kind:
        raise BadInput(f"{path}: holds a {about['kind']}, a {kind} is needed here")
    try:
        config = from_json(about["config"])
        found = Described(config, schema(config.condition.schema), Frame.from_json(about["frame"]), Stretch.from_json(about["stretch"]))
    except GalaxySDError as error:
        raise BadInput(f"{path}: {error}") from error
    model, frame, stretch = config.model, found.frame, found.stretch
    if (frame.size, len(frame.bands)) != (model.image_size, model.image_channels) or len(stretch.gain) != len(frame.bands):
        raise BadInput(
            f"{path}: its config is of {model.image_channels} x {model.image_size} pixels, its frame of {len(frame.bands)} x "
            f"{frame.size} and its stretch of {len(stretch.gain)} bands; the header is damaged"
        )
    if stretch.kind != frame.kind:
        raise BadInput(f"{path}: its frame holds {frame.kind} and its stretch is for {stretch.kind}; the header is damaged")
    return found
