"""What a person asks for, as votes: "barred spiral, 2 arms" or "has-spiral-arms_yes=0.9"; what leads to an answer is filled in.

A small copy of how galaxysd reads requests, over the bundle's own labels.json.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from bundle_opening import Refused

LEADING, ASKED = 0.95, 0.9  # fractions of an ancestor nobody mentioned, and of an answer asked for by name


def plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


class Tree:
    """The questions of labels.json and the names people use for their answers."""

    def __init__(self, labels: dict[str, Any]) -> None:
        self.names = [question["name"] for question in labels["questions"]]
        self.parents = [tuple(question["parents"]) for question in labels["questions"]]
        self.of = [[f"{question['name']}_{answer}" for answer in question["answers"]] for question in labels["questions"]]
        self.answers = [answer for answers in self.of for answer in answers]
        self.aliases = {plain(alias): tuple(meanings) for alias, meanings in labels["aliases"].items()}

    def resolve(self, name: str) -> str:
        """The answer that a name means; an unknown or ambiguous one is refused."""
        if name in self.answers:
            return name
        meanings = self.aliases.get(plain(name), ())
        if len(meanings) > 1:
            raise Refused(f"{name!r} is ambiguous: it can mean {' or '.join(meanings)}; write the one you want")
        if not meanings:
            raise Refused(f"{name!r}: no such answer{nearest(name, [*self.answers, *self.aliases])}")
        return meanings[0]

    def votes(self, text: str, voters: float) -> tuple[np.ndarray, list[str]]:
        """Reads "has-spiral-arms_yes=0.9,...": counts [1, A], and a line for each question filled in."""
        given: dict[str, float] = {}
        for name, value in numbers(text, "votes"):
            answer = self.resolve(name)
            if not 0 <= value <= 1:
                raise Refused(f"{answer}: {value:g} is not a fraction; give a number from 0 to 1")
            if given.setdefault(answer, value) != value:
                raise Refused(f"{answer}: asked to be {given[answer]:g} and {value:g}; give it once")
        return self.counts(given, voters)

    def ask(self, text: str, voters: float) -> tuple[np.ndarray, list[str]]:
        """Reads "barred spiral, 2 arms": each answer or alias at a fraction of 0.9."""
        given: dict[str, float] = {}
        for phrase in items(text, "ask"):
            words = phrase.split()
            while words:
                length = len(words)  # the longest run of words that means something comes first
                while length > 1 and not self._means(" ".join(words[:length])):
                    length -= 1
                given[self.resolve(" ".join(words[:length]))] = ASKED
                words = words[length:]
        return self.counts(given, voters)

    def _means(self, name: str) -> bool:
        return name in self.answers or len(self.aliases.get(plain(name), ())) == 1

    def counts(self, given: dict[str, float], voters: float) -> tuple[np.ndarray, list[str]]:
        """Conditional counts of the answers given and of those that lead to them."""
        if not 0 < voters < math.inf:
            raise Refused(f"voters: {voters:g}; at least one volunteer must be asked")
        fractions: dict[int, dict[str, float]] = {}
        because: dict[int, str] = {}
        for number, answers in enumerate(self.of):
            mentioned = {answer: given[answer] for answer in answers if answer in given}
            if mentioned:
                fractions[number], because[number] = self._complete(number, mentioned), _words(mentioned)
        filled, left_open = self._ancestors(fractions, because)
        reach: list[float] = []
        flat = {answer: value for answers in fractions.values() for answer, value in answers.items()}
        counts = np.zeros((1, len(self.answers)), np.float32)
        for number, answers in enumerate(self.of):
            parents = self.parents[number]
            led = (flat.get(parent, 0.0) * reach[self._owner(parent)] for parent in parents)
            reach.append(sum(led) if parents else 1.0)
            if number in fractions and number not in left_open:
                for answer in answers:
                    counts[0, self.answers.index(answer)] = flat[answer] * reach[number] * voters
        return counts, filled

    def _owner(self, answer: str) -> int:
        return next(number for number, answers in enumerate(self.of) if answer in answers)

    def _complete(self, number: int, mentioned: dict[str, float]) -> dict[str, float]:
        """All fractions of a question: what was not mentioned shares the rest evenly."""
        total = sum(mentioned.values())
        others = [answer for answer in self.of[number] if answer not in mentioned]
        if total > 1 + 1e-6:
            raise Refused(f"{self.names[number]}: {_words(mentioned)} sum to {total:g}, more than 1; lower them")
        if not others and total < 1 - 1e-6:
            raise Refused(f"{self.names[number]}: {_words(mentioned)} are all its answers and sum to {total:g}; they must sum to 1")
        rest = max(0.0, 1 - total) / max(1, len(others))
        return {answer: mentioned.get(answer, rest) for answer in self.of[number]}

    def _ancestors(self, fractions: dict[int, dict[str, float]], because: dict[int, str]) -> tuple[list[str], set[int]]:
        """Adds the questions that lead to those asked; refuses a question that nobody could have reached."""
        filled, left_open = [], set()
        for number in range(len(self.of) - 1, -1, -1):  # a parent stands before its children
            wanted = [child for child in sorted(fractions) if child > number and set(self.parents[child]) & set(self.of[number])]
            if not wanted:
                continue
            name = self.names[number]
            if number in fractions:
                for child in wanted:
                    if sum(fractions[number].get(parent, 0.0) for parent in self.parents[child]) <= 0:
                        raise Refused(
                            f"{name}: {because[number]} leaves 0 for {' or '.join(self.parents[child])}, but {because[child]} is "
                            "asked only of those; change one of the two"
                        )
                continue
            leading = set(self.of[number]).intersection(*(self.parents[child] for child in wanted))
            if not leading:
                claims = "; ".join(f"{because[child]} needs {' or '.join(self.parents[child])}={LEADING:g}" for child in wanted)
                raise Refused(f"{name}: {claims}; both cannot lead, so give {name} yourself or drop one")
            leaders = [answer for answer in self.of[number] if answer in leading]
            fractions[number] = self._complete(number, {answer: LEADING / len(leaders) for answer in leaders})
            because[number] = because[wanted[0]]
            if len(leaders) > 1:  # it counts who comes through, and stays unknown
                left_open.add(number)
                filled.append(f"{name}: left open, since {' and '.join(leaders)} both lead to {because[number]}")
            else:
                value = fractions[number][leaders[0]]
                filled.append(f"{name}: filled in as {leaders[0]}={value:g}, which leads to {because[number]}")
        return filled[::-1], left_open


def items(text: str, where: str) -> list[str]:
    found = [item.strip() for item in text.split(",") if item.strip()]
    if not found:
        raise Refused(f"{where}: empty; name at least one")
    return found


def numbers(text: str, where: str) -> list[tuple[str, float]]:
    """Reads "name=value,..."."""
    found = []
    for item in items(text, where):
        name, equals, value = item.partition("=")
        try:
            found.append((name.strip(), float(value)))
        except ValueError:
            problem = f"{value.strip()!r} is not a number" if equals else "has no value"
            raise Refused(f"{where}: {name.strip()} {problem}; write it like magnitude=16.5") from None
    return found


def asked_numbers(text: str | None, known: list[str]) -> np.ndarray:
    """Reads "magnitude=16.5,redshift=0.05": float32 [1, N], NaN where nothing was said."""
    found = np.full((1, len(known)), np.nan, np.float32)
    for name, value in numbers(text, "numbers") if text is not None else ():
        if name not in known:
            raise Refused(f"{name}: no such number{nearest(name, known)}")
        if not math.isfinite(value) or (name != "magnitude" and value < 0):
            raise Refused(f"{name}: {value:g} is not possible; give a finite number{'' if name == 'magnitude' else ' of at least 0'}")
        if np.isfinite(found[0, known.index(name)]):
            raise Refused(f"{name}: given twice; give it once")
        found[0, known.index(name)] = value
    return found


def _words(fractions: dict[str, float]) -> str:
    return ", ".join(f"{answer}={value:g}" for answer, value in fractions.items())
