"""Is a set whole? Every byte against its digest, every value against what a set may hold, and what its labels add up to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from galaxysd.data.readers import open_set
from galaxysd.errors import GalaxySDError

SHOWN = 20  # problems told in words; all are counted


def check_set(folder: Path) -> dict[str, Any]:
    """Reads a whole set, shard by shard; gives counts, and the problems it found. `ok` says that there are none."""
    data = open_set(folder)
    labels = data.frame.labels
    votes = torch.zeros(len(labels.answers), dtype=torch.float64)
    asked = torch.zeros(len(labels.questions), dtype=torch.int64)
    problems: list[str] = []
    seen: dict[str, int] = {}
    duplicates = rows = 0
    for k in range(len(data.chunk_rows)):
        try:
            galaxies = data.load(k)
        except GalaxySDError as error:
            problems.append(str(error))
            continue
        rows += len(galaxies)
        votes += galaxies.counts.double().sum(0)
        asked += (labels.voters(galaxies.counts) > 0).sum(0)
        for name in galaxies.ids:
            if name in seen:
                duplicates += 1
                problems.append(f"{folder}: the id {name!r} is in shards {seen[name]} and {k}; an id names one galaxy")
            seen[name] = k
    expected = {f"shard-{k:05d}" for k in range(len(data.chunk_rows))}
    for path in sorted((Path(folder) / "data").glob("*")):
        if path.stem not in expected and not path.name.startswith("."):
            problems.append(f"{path}: not in the manifest, so it is no part of the set; take it out of the folder")
    return {
        "set": str(folder),
        "ok": not problems,
        "kind": data.frame.kind,
        "rows": rows,
        "shards": len(data.chunk_rows),
        "is_synthetic": data.provenance["is_synthetic"],
        "duplicates": duplicates,
        "questions": {
            question.name: {"asked": int(asked[number]), "votes": dict(zip(question.answers, votes[columns].tolist(), strict=True))}
            for number, (question, columns) in enumerate(zip(labels.questions, labels.slices, strict=True))
        },
        "problem_count": len(problems),
        "problems": problems[:SHOWN],
    }
