"""The questions volunteers answer, the tree they form, and the names people use for the answers.

An answer's canonical name is `question_answer`. Inside galaxysd labels are conditional counts: how many volunteers who were
asked a question gave each answer. A question that nobody was asked has a count of zero and is unknown.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from galaxysd.errors import BadInput, nearest


@dataclass(frozen=True)
class Question:
    """One question, its answers in published order, and the canonical answers any of which lead to it."""

    name: str
    answers: tuple[str, ...]
    parents: tuple[str, ...] = ()
    text: str = ""

    @property
    def canonical(self) -> tuple[str, ...]:
        return tuple(f"{self.name}_{answer}" for answer in self.answers)


@dataclass(frozen=True)
class Schema:
    """A question tree; vote tensors have one column an answer, [..., A], in the order of `answers`."""

    name: str
    questions: tuple[Question, ...]

    @property
    def own(self) -> tuple[str, ...]:
        """The classes that a user added, by `with_class`."""
        return tuple(self.name.split("+")[1:])

    @cached_property
    def answers(self) -> tuple[str, ...]:
        return tuple(answer for question in self.questions for answer in question.canonical)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """The columns of each question."""
        ends = torch.tensor([len(question.answers) for question in self.questions]).cumsum(0).tolist()
        return tuple(slice(end - len(question.answers), end) for question, end in zip(self.questions, ends, strict=True))

    @cached_property
    def owner(self) -> Tensor:
        """The question number of each answer, int64 [A]."""
        # Kept, so it must not be a tensor of inference mode, which training could not use.
        with torch.inference_mode(False):
            return torch.tensor([number for number, question in enumerate(self.questions) for _ in question.answers])

    def index(self, answer: str) -> int:
        """The column of a canonical answer."""
        try:
            return self.answers.index(answer)
        except ValueError:
            raise BadInput(f"{answer}: no such answer in schema {self.name}{nearest(answer, self.answers)}") from None

    def number(self, question: str) -> int:
        """The number of a question by name."""
        names = [each.name for each in self.questions]
        if question not in names:
            raise BadInput(f"{question}: no such question in schema {self.name}{nearest(question, names)}")
        return names.index(question)

    def voters(self, counts: Tensor) -> Tensor:
        """How many volunteers answered each question: [..., A] -> [..., Q]."""
        total = counts.new_zeros(*counts.shape[:-1], len(self.questions))
        return total.index_add_(-1, self.owner.to(counts.device), counts)

    def fractions(self, counts: Tensor) -> Tensor:
        """Conditional fractions, [..., A]; they sum to 1 within an asked question and are 0 in one nobody was asked."""
        voters = self.voters(counts)[..., self.owner.to(counts.device)]
        return torch.where(voters > 0, counts / voters.clamp_min(1e-12), torch.zeros_like(counts))

    def reach(self, fractions: Tensor) -> Tensor:
        """The share of all volunteers who get to each question under conditional `fractions`: [..., A] -> [..., Q]."""
        reached: list[Tensor] = []
        for question in self.questions:
            if not question.parents:
                reached.append(torch.ones_like(fractions[..., 0]))
                continue
            share = torch.zeros_like(fractions[..., 0])
            for parent in question.parents:
                column = self.index(parent)
                share = share + fractions[..., column] * self._share(reached, int(self.owner[column]), fractions)
            reached.append(share)
        return torch.stack(reached, -1)

    def _share(self, reached: list[Tensor], number: int, fractions: Tensor) -> Tensor:
        if number >= len(reached):
            raise AssertionError(f"schema {self.name}: question {number} is asked before its parent")
        return reached[number]

    def leading(self, votes: Tensor) -> Tensor:
        """The answer that leads each question, counted from the question's first, int64 [B, Q]; -1 where none does.

        Two of 40 volunteers who saw a bar in a smooth galaxy make no barred galaxy: a question counts only along the leading path.
        A parent that nobody was asked leaves its children to speak for themselves.
        """
        voters = self.voters(votes)
        chosen = torch.full(voters.shape, -1, dtype=torch.int64)
        for number, (question, part) in enumerate(zip(self.questions, self.slices, strict=True)):
            counted = voters[:, number] > 0
            if question.parents:
                columns = [self.index(parent) for parent in question.parents]
                owners = [int(self.owner[column]) for column in columns]
                led = torch.stack([chosen[:, q] == c - self.slices[q].start for q, c in zip(owners, columns, strict=True)]).any(0)
                unknown = torch.stack([voters[:, q] <= 0 for q in owners]).all(0)
                counted = counted & (led | unknown)
            chosen[:, number] = torch.where(counted, votes[:, part].argmax(-1), -1)
        return chosen

    def winners(self, votes: Tensor) -> Tensor:
        """Whether each answer leads its question on the leading path: what most would call the galaxy. bool [B, A]."""
        leading = self.leading(votes)[:, self.owner]
        place = torch.cat([torch.arange(part.stop - part.start) for part in self.slices])
        return leading == place

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "questions": [{"name": q.name, "answers": list(q.answers), "parents": list(q.parents), "text": q.text} for q in self.questions],
        }


GZ2 = Schema(
    "gz2",
    (
        Question("smooth-or-featured", ("smooth", "featured", "artifact"), (), "Smooth and rounded, or with features?"),
        Question("disk-edge-on", ("yes", "no"), ("smooth-or-featured_featured",), "A disk viewed edge-on?"),
        Question("bar", ("yes", "no"), ("disk-edge-on_no",), "A bar through the centre?"),
        Question("has-spiral-arms", ("yes", "no"), ("disk-edge-on_no",), "Any sign of spiral arms?"),
        Question("bulge-size", ("none", "just-noticeable", "obvious", "dominant"), ("disk-edge-on_no",), "How prominent is the bulge?"),
        Question("something-odd", ("yes", "no"), ("smooth-or-featured_smooth", "smooth-or-featured_featured"), "Anything odd?"),
        Question("how-rounded", ("round", "in-between", "cigar"), ("smooth-or-featured_smooth",), "How rounded is it?"),
        Question(
            "odd-feature",
            ("ring", "lens-or-arc", "disturbed", "irregular", "other", "merger", "dust-lane"),
            ("something-odd_yes",),
            "What is odd?",
        ),
        Question("edge-on-bulge", ("round", "boxy", "none"), ("disk-edge-on_yes",), "The shape of the edge-on bulge?"),
        Question("spiral-winding", ("tight", "medium", "loose"), ("has-spiral-arms_yes",), "How tightly wound are the arms?"),
        Question("spiral-arm-count", ("1", "2", "3", "4", "more-than-4", "cant-tell"), ("has-spiral-arms_yes",), "How many arms?"),
    ),
)

SCHEMAS = {GZ2.name: GZ2}
OWN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # the name of a class of the user's own
OWN_LENGTH, OWN_LIMIT = 48, 16

# What people write, and the canonical answer they mean. A name that could mean two answers lists both and is refused.
ALIASES: dict[str, tuple[str, ...]] = {
    "smooth": ("smooth-or-featured_smooth",),
    "elliptical": ("smooth-or-featured_smooth",),
    "featured": ("smooth-or-featured_featured",),
    "disk": ("smooth-or-featured_featured",),
    "disc": ("smooth-or-featured_featured",),
    "artifact": ("smooth-or-featured_artifact",),
    "star": ("smooth-or-featured_artifact",),
    "edge-on": ("disk-edge-on_yes",),
    "face-on": ("disk-edge-on_no",),
    "barred": ("bar_yes",),
    "bar": ("bar_yes",),
    "unbarred": ("bar_no",),
    "no bar": ("bar_no",),
    "spiral": ("has-spiral-arms_yes",),
    "spiral arms": ("has-spiral-arms_yes",),
    "no spiral": ("has-spiral-arms_no",),
    "no bulge": ("bulge-size_none", "edge-on-bulge_none"),
    "just noticeable bulge": ("bulge-size_just-noticeable",),
    "obvious bulge": ("bulge-size_obvious",),
    "dominant bulge": ("bulge-size_dominant",),
    "odd": ("something-odd_yes",),
    "not odd": ("something-odd_no",),
    "round": ("how-rounded_round", "edge-on-bulge_round"),
    "smooth round": ("how-rounded_round",),
    "completely round": ("how-rounded_round",),
    "in-between": ("how-rounded_in-between",),
    "cigar": ("how-rounded_cigar",),
    "cigar shaped": ("how-rounded_cigar",),
    "ring": ("odd-feature_ring",),
    "lens": ("odd-feature_lens-or-arc",),
    "arc": ("odd-feature_lens-or-arc",),
    "disturbed": ("odd-feature_disturbed",),
    "irregular": ("odd-feature_irregular",),
    "merger": ("odd-feature_merger",),
    "dust lane": ("odd-feature_dust-lane",),
    "round bulge": ("edge-on-bulge_round",),
    "boxy bulge": ("edge-on-bulge_boxy",),
    "no edge-on bulge": ("edge-on-bulge_none",),
    "tight": ("spiral-winding_tight",),
    "medium winding": ("spiral-winding_medium",),
    "loose": ("spiral-winding_loose",),
    "1 arm": ("spiral-arm-count_1",),
    "2 arms": ("spiral-arm-count_2",),
    "3 arms": ("spiral-arm-count_3",),
    "4 arms": ("spiral-arm-count_4",),
    "many arms": ("spiral-arm-count_more-than-4",),
    "2": ("spiral-arm-count_2",),
    "none": ("bulge-size_none", "edge-on-bulge_none"),
    "yes": ("disk-edge-on_yes", "bar_yes", "has-spiral-arms_yes", "something-odd_yes"),
    "no": ("disk-edge-on_no", "bar_no", "has-spiral-arms_no", "something-odd_no"),
}


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


_PLAIN = {_plain(alias): meanings for alias, meanings in ALIASES.items()}


# A column of the published tables of Galaxy Zoo 2, t08_odd_feature_a38_dust_lane_count: number of the task, number of the answer.
_PUBLISHED = re.compile(r"t(\d\d)_\w+_a(\d\d)_\w+_count")
# The answers' published numbers, in our order: the dust lane came after the rest, and there is no 35.
_PUBLISHED_ANSWERS = (*range(1, 25), 38, *range(25, 35), 36, 37)


def published(name: str) -> str | None:
    """The canonical answer whose votes a column of a published Galaxy Zoo 2 table counts, None for any other name."""
    found = _PUBLISHED.fullmatch(name)
    if found is None or int(found[2]) not in _PUBLISHED_ANSWERS:
        return None
    column = _PUBLISHED_ANSWERS.index(int(found[2]))
    return GZ2.answers[column] if int(GZ2.owner[column]) == int(found[1]) - 1 else None


@functools.lru_cache(maxsize=64)
def schema(name: str) -> Schema:
    """The schema of that name; `gz2+tidal-stream` is gz2 with a class of the user's own."""
    base, *added = name.split("+")
    if base not in SCHEMAS:
        raise BadInput(f"{base}: no such label schema{nearest(base, SCHEMAS)}")
    if len(added) > OWN_LIMIT:
        raise BadInput(f"{name[:80]}: {len(added)} classes beside schema {base}; at most {OWN_LIMIT}")
    return functools.reduce(with_class, added, SCHEMAS[base])


def with_class(tree: Schema, name: str) -> Schema:
    """The tree and one more question, asked of every galaxy: whether it is of a class outside the tree."""
    if len(name) > OWN_LENGTH or not OWN.fullmatch(name):
        raise BadInput(f"{name[:80]!r}: no name for a class; write small letters, digits and hyphens, like tidal-stream")
    if name in [question.name for question in tree.questions] or _plain(name) in _PLAIN:
        raise BadInput(f"{name}: schema {tree.name} has that name already; ask for it as it is, or give another name")
    return Schema(f"{tree.name}+{name}", (*tree.questions, Question(name, ("yes", "no"), (), f"Is it this: {name}?")))


def meaning(name: str, tree: Schema = GZ2) -> str | None:
    """The canonical answer for a canonical name, an alias or a published column of counts, None if it is none of them.

    An ambiguous alias is refused with its meanings.
    """
    if name in tree.answers:
        return name
    for each in tree.own:
        if _plain(name) == _plain(each):
            return f"{each}_yes"
    meanings = _PLAIN.get(_plain(name), ())
    if len(meanings) > 1:
        raise BadInput(f"{name!r} is ambiguous: it can mean {' or '.join(meanings)}; write the one you want")
    if meanings:
        return meanings[0]
    return published(name) if tree.name.split("+")[0] == GZ2.name else None


def resolve(name: str, tree: Schema = GZ2) -> str:
    """The canonical answer for a canonical name or an alias; anything else is refused with the nearest name."""
    found = meaning(name, tree)
    if found is None:
        raise BadInput(f"{name!r}: no such answer{nearest(name, [*tree.answers, *tree.own, *ALIASES])}")
    return found
