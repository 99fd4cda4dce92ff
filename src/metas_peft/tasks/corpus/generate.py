"""Templates and a lexicon -> labelled sentences, the same on every machine and Python version."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeVar

from metas_peft.tasks.corpus.lexicon import Lexicon, Noun
from metas_peft.tasks.corpus.templates import LEVELS, Template

T = TypeVar("T")

# A part takes an adjective of its own class, or, this often, one that fits every noun.
GENERAL_SHARE = 0.35
# Draws per sentence before a template counts as exhausted.
PATIENCE = 200

_SLOT = re.compile(r"\{([^}]+)\}")
_SENTENCE_START = re.compile(r"(^|[.!?] )([a-z])")
_AGREEMENT = {"is": ("is", "are"), "was": ("was", "were")}


@dataclass(frozen=True)
class Sentence:
    """A generated sentence.

    Attributes:
        text: The sentence.
        label: 0 negative, 1 positive.
        level: Level of its template.
        template: Index of its template.
    """

    text: str
    label: int
    level: str
    template: int


def generate(templates: Sequence[Template], lexicon: Lexicon, size: int, seed: int) -> tuple[Sentence, ...]:
    """Unique sentences, half of each label within every template, in random order.

    Args:
        templates: Patterns; a level's share of the sentences is spread over its templates.
        lexicon: Words for their slots.
        size: Number of sentences, even.
        seed: Seed of the draw.

    Returns:
        `size` sentences; no two have the same text.
    """
    # Only random() is drawn from: it is the one method whose sequence Python promises to keep.
    rng = random.Random(seed)
    seen: set[str] = set()
    sentences: list[Sentence] = []
    for index, (template, pairs) in enumerate(zip(templates, _shares(templates, size // 2), strict=True)):
        for label in [0, 1] * pairs:
            text = _fresh(template, lexicon, label, rng, seen)
            seen.add(text)
            sentences.append(Sentence(text, label, template.level, index))
    return tuple(sorted(sentences, key=lambda _: rng.random()))


def _shares(templates: Sequence[Template], total: int) -> list[int]:
    """Pairs of sentences per template: by the share of its level, evenly within, and `total` in all."""
    crowd = Counter(template.level for template in templates)
    ends = list(accumulate(total * LEVELS[template.level] / crowd[template.level] for template in templates))
    marks = [0, *(round(end * total / ends[-1]) for end in ends)]
    return [after - before for before, after in pairwise(marks)]


def _fresh(template: Template, lexicon: Lexicon, label: int, rng: random.Random, seen: set[str]) -> str:
    for _ in range(PATIENCE):
        text = _Filling(lexicon, label, rng).render(template.text)
        if text not in seen:
            return text
    raise ValueError(f"The template {template.text!r} has too few fillings for the size asked for.")


def _pick(options: Sequence[T], rng: random.Random) -> T:
    return options[int(rng.random() * len(options))]


class _Filling:
    """One topic with a whole and two parts, and the words chosen for one sentence so far."""

    def __init__(self, lexicon: Lexicon, label: int, rng: random.Random) -> None:
        self.lexicon, self.label, self.rng = lexicon, label, rng
        topic = _pick(lexicon.topics, rng)
        first = _pick(topic.parts, rng)
        second = _pick([part for part in topic.parts if part != first], rng)
        self.nouns = {"0": Noun(_pick(topic.wholes, rng), "any"), "1": first, "2": second, "g": Noun("", "any")}
        self.used: set[str] = set()

    def render(self, pattern: str) -> str:
        text = _SLOT.sub(lambda match: self.fill(match.group(1)), pattern)
        return _SENTENCE_START.sub(lambda match: match.group(1) + match.group(2).upper(), text)

    def fill(self, slot: str) -> str:
        slot = slot.rstrip("'")
        if slot == "who":
            return self.new(self.lexicon.people)
        if slot == "very":
            return self.new(self.lexicon.intensifiers)
        if slot == "n0s":
            return _plural(self.nouns["0"].text)
        if slot[0] == "n":
            return self.nouns[slot[1:]].text
        if slot[:-1] in _AGREEMENT:
            return _AGREEMENT[slot[:-1]][self.nouns[slot[-1]].number == "many"]
        if slot[-1] in "+-":
            return self.opinion(slot[:-1], self.side(slot[-1]))
        adjective = self.adjective(self.nouns[slot[-1]], self.side(slot[-2]))
        if slot[0] == "a" and self.nouns[slot[-1]].number == "one":
            return f"{'an' if adjective[0] in 'aeiou' else 'a'} {adjective}"
        return adjective

    def side(self, sign: str) -> int:
        return self.label if sign == "+" else 1 - self.label

    def opinion(self, kind: str, side: int) -> str:
        if kind in ("do", "did"):
            return self.new([verb[kind == "did"] for verb in self.lexicon.verbs[side]])
        return self.new({"thing": self.lexicon.verdicts, "feel": self.lexicon.feelings}[kind][side])

    def adjective(self, noun: Noun, side: int) -> str:
        kind = "any" if self.rng.random() < GENERAL_SHARE else noun.kind
        return self.new(self.lexicon.adjectives[kind][side])

    def new(self, options: Sequence[str]) -> str:
        """A word that the sentence does not hold yet, where there is one."""
        word = _pick([option for option in options if option not in self.used] or options, self.rng)
        self.used.add(word)
        return word


def _plural(noun: str) -> str:
    if noun[-1] == "y" and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
