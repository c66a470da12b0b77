"""Whether predicted vote fractions mean what they say: of the volunteers to whom 0.3 was promised, 30 % should answer so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galaxysd.data.schema import Schema

BINS = 10


def reliability(fractions: Tensor, counts: Tensor, labels: Schema, question: int | None = None) -> list[dict[str, float]]:
    """Predicted and given fractions in bins of the predicted `fractions` [N, A], against `counts` [N, A]: of one question, or of all.

    Every volunteer counts once for each answer of a question that was asked. Bins without votes are left out.
    """
    asked = labels.voters(counts.double())[:, labels.owner]
    columns = labels.slices[question] if question is not None else slice(None)
    said, given, asked = (each[:, columns].double() for each in (fractions, counts, asked))
    place = (said * BINS).long().clamp(0, BINS - 1).flatten()

    def total(of: Tensor) -> list[float]:
        return torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, of.flatten()).tolist()

    sums = zip(total(asked), total(asked * said), total(given), strict=True)
    return [{"predicted": promised / n, "given": answered / n, "votes": n} for n, promised, answered in sums if n > 0]


def expected_error(bins: list[dict[str, float]]) -> float | None:
    """The expected calibration error: mean distance of promised and given fraction, by votes; None without votes."""
    votes = sum(each["votes"] for each in bins)
    return sum(each["votes"] * abs(each["predicted"] - each["given"]) for each in bins) / votes if votes else None


def calibration(fractions: Tensor, counts: Tensor, labels: Schema) -> dict[str, Any]:
    """The expected calibration error of every question, and of all of them, with the bins of all."""
    every = reliability(fractions, counts, labels)
    by = {each.name: expected_error(reliability(fractions, counts, labels, number)) for number, each in enumerate(labels.questions)}
    return {"expected_calibration_error": expected_error(every), "by_question": by, "bins": every}
