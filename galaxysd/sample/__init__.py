"""Drawing galaxies from a trained model."""

from __future__ import annotations

from galaxysd.sample.batch import GalaxyBatch
from galaxysd.sample.generate import Generator, load

__all__ = ["GalaxyBatch", "Generator", "load"]
