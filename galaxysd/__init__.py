"""galaxysd: learns galaxies from volunteers' votes and generates labelled galaxy images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from galaxysd.sample import GalaxyBatch as GalaxyBatch
    from galaxysd.sample import Generator as Generator
    from galaxysd.sample import load as load

__all__ = ["GalaxyBatch", "Generator", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import galaxysd` and `galaxysd --help` do not wait for torch.
    if name in ("load", "Generator", "GalaxyBatch"):
        from galaxysd import sample

        return getattr(sample, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
