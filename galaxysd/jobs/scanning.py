"""The shard function of a scan: a classifier looks at every galaxy of a set; what cannot be read becomes a row that says why.

Galaxy r of a shard stands at slot r mod U of a unit of U, whatever became of its neighbours: its bytes depend on nobody's fate.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from galaxysd import checkpoint, files
from galaxysd.data import layout, readers
from galaxysd.errors import BadInput, Mismatch
from galaxysd.jobs import plan as plans
from galaxysd.jobs.decoding import Bad, Decoder, Shards
from galaxysd.jobs.plan import Plan
from galaxysd.jobs.sampling import GoOn, Made
from galaxysd.model.classifier import Judge, concentrations

COLUMNS = ("pred", "concentration", "reach")  # of each answer: fraction of those asked, Dirichlet concentration, fraction of all
UNIT, UNITS_AT_ONCE = 64, 16  # galaxies the network sees together; units that are decoded together


class Scanner:
    """A scan opened for work."""

    def __init__(self, folder: Path, plan: Plan, make: Callable[[Path], Any] = Shards, seconds: tuple[int, int] | None = None) -> None:
        if plan.kind != "scan" or plan.data is None:
            raise BadInput(f"{folder}: the plan of a {plan.kind}, a scan is needed here")
        self.plan, self.folder = plan, folder
        self.judge = Judge(checkpoint.read(plans.verified(folder, plans.MODEL, plan.model), plan.model))
        self.data = readers.open_set(Path(plan.data))
        found = files.digest(self.data.folder / "manifest.json")
        if found != plan.manifest:
            raise Mismatch(f"{plan.data}: its manifest has SHA-256 {found.sha256[:12]}..., another than when the scan was planned")
        self.first = list(itertools.accumulate(self.data.chunk_rows, initial=0))
        limits = {} if seconds is None else {"seconds": seconds[0], "row_seconds": seconds[1]}
        self.decoder = Decoder(self.data.folder, self.data.frame, make, **limits)

    def close(self) -> None:
        self.decoder.__exit__()

    @torch.inference_mode()
    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Concentrations [U, A] and last hidden layer [U, E] of one unit."""
        net, labels = self.judge.net, self.judge.labels
        hidden = net.embed(self.judge.prepare(images, self.data.frame))
        logits, firmness = net.out(hidden).float().split([len(labels.answers), len(labels.questions)], 1)
        return concentrations((logits, firmness), labels), hidden

    def make(self, number: int, go_on: GoOn) -> Made:
        """Shard `number`: a row for each of the set's shard of that number."""
        count, unit = self.data.chunk_rows[number], self.plan.unit
        ids: list[str | None] = [None] * count
        why: dict[int, str] = {}
        shape, dtype = layout.image_shape(self.data.frame), layout.DTYPES[self.data.frame.kind][1]
        images = torch.zeros(-(-count // unit) * unit, *shape, dtype=dtype)  # where nothing could be read, nothing
        for found in self.decoder.rows(number, count, unit * UNITS_AT_ONCE):
            if isinstance(found, Bad):
                why[found.row] = found.reason
            else:
                images[found.first : found.first + len(found.ids)] = found.images
                ids[found.first : found.first + len(found.ids)] = found.ids
        seen: list[tuple[Tensor, Tensor]] = []
        for part in images.split(unit):
            seen.append(self.look(part))
            go_on(min(unit, count - unit * len(seen) + unit))
        alpha, hidden = (torch.cat(parts)[:count] for parts in zip(*seen, strict=True))
        return Made(self._table(number, ids, why, alpha, hidden), self._quarantine(number, why))

    def _table(self, number: int, ids: list[str | None], why: dict[int, str], alpha: Tensor, hidden: Tensor) -> pa.Table:
        labels, count = self.judge.labels, len(ids)
        unread = torch.tensor([row in why for row in range(count)]).numpy()
        fractions = labels.fractions(alpha)
        share = labels.reach(fractions)[:, labels.owner] * fractions
        columns: dict[str, Any] = {
            "id": pa.array(ids, pa.string()),
            "index": pa.array(range(self.first[number], self.first[number] + count), pa.int64()),
            "error": pa.array([why.get(row) for row in range(count)], pa.string()),
        }
        for prefix, values in zip(COLUMNS, (fractions, alpha, share), strict=True):
            columns |= {f"{prefix}_{answer}": pa.array(values[:, i].numpy(), mask=unread) for i, answer in enumerate(labels.answers)}
        rows = [None if bad else row for bad, row in zip(unread, hidden.float().numpy(), strict=True)]
        columns["embedding"] = pa.array(rows, pa.list_(pa.float32()))
        about = {
            "judge": self.plan.model_name,
            "judge_sha256": self.plan.model.sha256,
            "data": self.plan.manifest and self.plan.manifest.sha256,
        }
        return pa.table(columns).replace_schema_metadata({"galaxysd": json.dumps(about)})

    def _quarantine(self, number: int, why: dict[int, str]) -> dict[str, Any] | None:
        rows = [{"row": row, "index": self.first[number] + row, "reason": reason} for row, reason in sorted(why.items())]
        return {"data": self.plan.data, "shard": number, "rows": rows} if rows else None
