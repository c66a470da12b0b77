"""What a galaxy is asked to be: votes and numbers, any part of which may be unknown; how users write them, how the network sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.config import ConditionConfig
from galaxysd.data.galaxies import NUMERIC, Galaxies
from galaxysd.data.schema import GZ2, Schema, resolve
from galaxysd.errors import BadInput, nearest

LEADING = 0.95  # fraction that an ancestor nobody mentioned gives to the answer that leads on
ASKED = 0.9  # fraction of an answer asked for by name
TYPICAL_VOTERS = 40.0
# Numbers reach the network as (f(value) - centre) / spread; lengths and noise by their logarithm above a floor, since zero is allowed.
SCALES: dict[str, tuple[float | None, float, float]] = {  # floor of the logarithm or None, centre, spread
    "redshift": (None, 0.07, 0.05),
    "magnitude": (None, 16.0, 1.2),
    "r90_pixels": (0.1, math.log(12.0), 0.6),
    "psf_fwhm_pixels": (0.1, math.log(2.5), 0.5),
    "sky_noise": (1e-3, math.log(0.025), 0.7),
}


@dataclass
class Conditions:
    """A batch of conditions: a question without votes is unknown, a NaN number is unknown."""

    counts: Tensor  # [B, A] float32 conditional counts
    numeric: Tensor  # [B, 5] float32, columns NUMERIC

    def __len__(self) -> int:
        return len(self.counts)

    def rows(self, pick: Tensor) -> Conditions:
        """The conditions at positions `pick` (int64)."""
        return Conditions(self.counts[pick], self.numeric[pick])

    @classmethod
    def unknown(cls, n: int, schema: Schema = GZ2) -> Conditions:
        """n rows that ask for nothing."""
        return cls(torch.zeros(n, len(schema.answers)), torch.full((n, len(NUMERIC)), math.nan))


def of(galaxies: Galaxies) -> Conditions:
    """What is known of galaxies: their votes and numbers."""
    return Conditions(galaxies.counts, galaxies.numeric)


def asked(galaxies: Galaxies) -> Conditions:
    """What generated galaxies were asked to be; all unknown where nothing was asked."""
    counts = torch.zeros_like(galaxies.counts) if galaxies.cond_counts is None else galaxies.cond_counts
    numeric = torch.full_like(galaxies.numeric, math.nan) if galaxies.cond_numeric is None else galaxies.cond_numeric
    return Conditions(counts, numeric)


def like(galaxies: Galaxies) -> Conditions:
    """Conditions that ask for more of the same: the votes and numbers of these galaxies."""
    found = of(galaxies)
    if not bool((found.counts > 0).any()) and not bool(found.numeric.isfinite().any()):
        raise BadInput(f"the table's {len(galaxies)} rows hold no votes and no numbers, so there is nothing to be like")
    return found


def names(schema: Schema) -> list[str]:
    """What each feature that `encode` gives stands for."""
    asked = [f"{what} {question.name}" for what in ("known", "voters") for question in schema.questions]
    return [*schema.answers, *asked, *NUMERIC, *(f"known {name}" for name in NUMERIC)]


def width(schema: Schema) -> int:
    """How many features `encode` gives."""
    return len(names(schema))


def encode(conditions: Conditions, schema: Schema) -> Tensor:
    """The network's view, float32 [B, F]: fractions, then per question known and number of voters, then numbers and their known flags.

    Unknown parts are zeros, so all unknown is the zero vector, and 10 votes differ from 40.
    """
    counts, numeric = conditions.counts.float(), conditions.numeric.float()
    voters = schema.voters(counts)
    known = numeric.isfinite()
    columns = []
    for column, name in enumerate(NUMERIC):
        floor, centre, spread = SCALES[name]
        value = numeric[:, column] if floor is None else torch.log(numeric[:, column] + floor)
        columns.append((value - centre) / spread)
    return torch.cat(
        (
            schema.fractions(counts),
            (voters > 0).float(),
            torch.log1p(voters) / math.log1p(TYPICAL_VOTERS),
            torch.where(known, torch.stack(columns, -1), 0.0),
            known.float(),
        ),
        -1,
    )


def dropped(conditions: Conditions, config: ConditionConfig, seed: int, index: seeds.Index, schema: Schema) -> Conditions:
    """Conditions with parts made unknown at random, keyed by index: whole rows, single questions, single numbers.

    The chance of a question is `drop_question` on average, but is drawn for each row, so that nearly complete and nearly empty
    prompts both occur and partial prompts are nothing new to the network.
    """
    questions, numbers = len(schema.questions), len(NUMERIC)
    device = conditions.counts.device
    draw = seeds.uniform(seed, "condition-drop", index, (2 + questions + numbers,), device=device)
    mean = config.drop_question
    # u^(1/m - 1) lies in (0, 1) and averages m.
    chance = draw[:, 1:2] ** (1 / mean - 1) if mean > 0 else torch.zeros_like(draw[:, 1:2])
    gone = (draw[:, 2:] < chance) | (draw[:, :1] < config.drop_all)
    by_answer = gone[:, :questions][:, schema.owner.to(device)]
    return Conditions(torch.where(by_answer, 0.0, conditions.counts), torch.where(gone[:, questions:], math.nan, conditions.numeric))


def parse_votes(text: str, voters: float = TYPICAL_VOTERS, schema: Schema = GZ2) -> tuple[Conditions, list[str]]:
    """Reads "has-spiral-arms_yes=0.9,spiral-arm-count_2=0.8": conditional fractions of those who were asked.

    Gives one row, and a line for each question filled in: an ancestor that was not mentioned leads on with 0.95.
    """
    given: dict[str, float] = {}
    for item in _items(text, "votes"):
        name, value = _number(item, "votes", "has-spiral-arms_yes=0.9")
        answer = resolve(name, schema)
        if not 0 <= value <= 1:
            raise BadInput(f"{answer}: {value:g} is not a fraction; give a number from 0 to 1")
        if given.setdefault(answer, value) != value:
            raise BadInput(f"{answer}: asked to be {given[answer]:g} and {value:g}; give it once")
    return _conditions(given, voters, schema)


def parse_ask(text: str, voters: float = TYPICAL_VOTERS, schema: Schema = GZ2) -> tuple[Conditions, list[str]]:
    """Reads "barred spiral, 2 arms": each answer or alias at a fraction of 0.9; gives the same as `parse_votes`."""
    given: dict[str, float] = {}
    for phrase in _items(text, "ask"):
        words = phrase.split()
        while words:
            # The longest run of words that means something, so that "no spiral" is not read as "no" and "spiral".
            for length in range(len(words), 0, -1):
                try:
                    answer = resolve(" ".join(words[:length]), schema)
                    break
                except BadInput:
                    if length == 1:
                        raise
            given[answer] = ASKED
            words = words[length:]
    return _conditions(given, voters, schema)


def parse_numbers(text: str) -> Tensor:
    """Reads "magnitude=16.5,redshift=0.05" into float32 [1, 5], NaN where nothing was said."""
    numeric = torch.full((1, len(NUMERIC)), math.nan)
    for item in _items(text, "numbers"):
        name, value = _number(item, "numbers", "magnitude=16.5")
        if name not in NUMERIC:
            raise BadInput(f"{name}: no such number{nearest(name, NUMERIC)}")
        column = NUMERIC.index(name)
        if not math.isfinite(value) or (name != "magnitude" and value < 0):
            raise BadInput(f"{name}: {value:g} is not possible; give a finite number{'' if name == 'magnitude' else ' of at least 0'}")
        if bool(numeric[0, column].isfinite()):
            raise BadInput(f"{name}: asked to be {float(numeric[0, column]):g} and {value:g}; give it once")
        numeric[0, column] = value
    return numeric


def _items(text: str, where: str) -> list[str]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise BadInput(f"{where}: empty; name at least one")
    return items


def _number(item: str, where: str, example: str) -> tuple[str, float]:
    name, equals, value = item.partition("=")
    if not equals:
        raise BadInput(f"{where}: {item!r} has no value; write it like {example}")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise BadInput(f"{name.strip()}: {value.strip()!r} is not a number") from None


@dataclass
class _Asked:
    """A question in the making: its fractions by answer, and the words of the user that made it necessary."""

    fractions: dict[str, float]
    because: str
    open: bool = False  # several answers lead on and nobody chose: it counts who comes through, and stays unknown


def _conditions(given: dict[str, float], voters: float, schema: Schema) -> tuple[Conditions, list[str]]:
    if not 0 < voters < math.inf:
        raise BadInput(f"voters: {voters:g}; at least one volunteer must be asked")
    asked: dict[int, _Asked] = {}
    for number in range(len(schema.questions)):
        mentioned = {answer: given[answer] for answer in schema.questions[number].canonical if answer in given}
        if mentioned:
            asked[number] = _Asked(_complete(number, mentioned, schema), _words(mentioned))
    filled = _ancestors(asked, schema)
    fractions = torch.zeros(1, len(schema.answers))
    for question in asked.values():
        for answer, value in question.fractions.items():
            fractions[0, schema.index(answer)] = value
    counts = fractions * schema.reach(fractions)[:, schema.owner] * voters
    for number, question in asked.items():
        if question.open:
            counts[:, schema.slices[number]] = 0
    return Conditions(counts, torch.full((1, len(NUMERIC)), math.nan)), filled


def _words(fractions: dict[str, float]) -> str:
    return ", ".join(f"{answer}={value:g}" for answer, value in fractions.items())


def _complete(number: int, mentioned: dict[str, float], schema: Schema) -> dict[str, float]:
    """All fractions of a question: what was not mentioned shares the rest evenly."""
    question = schema.questions[number]
    total = sum(mentioned.values())
    others = [answer for answer in question.canonical if answer not in mentioned]
    if total > 1 + 1e-6:
        raise BadInput(f"{question.name}: {_words(mentioned)} sum to {total:g}, more than 1; volunteers give one answer, so lower them")
    if not others and total < 1 - 1e-6:
        raise BadInput(f"{question.name}: {_words(mentioned)} are all its answers and sum to {total:g}; they must sum to 1")
    rest = max(0.0, 1 - total) / max(1, len(others))
    return {answer: mentioned.get(answer, rest) for answer in question.canonical}


def _ancestors(asked: dict[int, _Asked], schema: Schema) -> list[str]:
    """Adds the questions that lead to those asked, and refuses a question that nobody could have reached."""
    filled = []
    for number in range(len(schema.questions) - 1, -1, -1):  # a parent stands before its children
        question = schema.questions[number]
        wanted = [(child, schema.questions[child].parents) for child in sorted(asked) if child > number]
        wanted = [(child, parents) for child, parents in wanted if any(parent in question.canonical for parent in parents)]
        if not wanted:
            continue
        if number in asked:
            for child, parents in wanted:
                if sum(asked[number].fractions.get(parent, 0.0) for parent in parents) <= 0:
                    raise BadInput(
                        f"{question.name}: {asked[number].because} leaves 0 for {' or '.join(parents)}, "
                        f"but {asked[child].because} is asked only of those; change one of the two"
                    )
            continue
        leading = set(question.canonical)
        for _, parents in wanted:
            leading &= set(parents)
        if not leading:
            claims = "; ".join(f"{asked[child].because} needs {' or '.join(parents)}={LEADING:g}" for child, parents in wanted)
            raise BadInput(f"{question.name}: {claims}; both cannot lead, so give {question.name} yourself or drop one")
        names = [answer for answer in question.canonical if answer in leading]
        fractions = _complete(number, {answer: LEADING / len(names) for answer in names}, schema)
        because = asked[wanted[0][0]].because
        asked[number] = _Asked(fractions, because, open=len(names) > 1)
        if asked[number].open:
            filled.append(f"{question.name}: left open, since {' and '.join(names)} both lead to {because}")
        else:
            filled.append(f"{question.name}: filled in as {names[0]}={fractions[names[0]]:g}, which leads to {because}")
    return filled[::-1]
