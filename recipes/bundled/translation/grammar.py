"""Writes the rows of translate_transformer: English sentences from a small grammar, each with its Orlish translation.

    python -m recipes.bundled.translation.grammar

rewrites `train.jsonl` and `validation.jsonl` beside this file, byte for byte the same on every machine. A `Writer`
draws what a sentence means; `sentences.py` says it in both languages, so both texts of a row follow from one meaning.

English leaves open what Orlish has to say: whether "you" are one or several, and whether a friend or a neighbor is a
woman. No translator can know, and the best one always takes the likelier reading. `likeliest` is that translator, and
what it scores on the rows is the highest that a model can be expected to reach.

Reading order: the words (`lexicon.py`), both languages (`sentences.py`), the random choices (`Writer`), the files
(`rows`).
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from recipes.bundled.translation.lexicon import (
    ADJECTIVES,
    ANIMALS,
    CONJUNCTIONS,
    FEMALE_FRIENDS,
    IDIOMS,
    MALE_FRIENDS,
    PERSON_ADJECTIVES,
    PERSON_VERBS,
    PERSONS,
    PLACES,
    PREPOSITIONS,
    PRONOUNS,
    SEEING_VERBS,
    THAT_VERBS,
    THING_VERBS,
    THINGS,
    TIMES,
    VERBS_ALONE,
    YOU,
    YOU_ALL,
    Noun,
    Pronoun,
)
from recipes.bundled.translation.sentences import Clause, FixedObject, NounPhrase, Sentence, english, orlish

HERE = Path(__file__).parent
NUM_ROWS = {"train": 5000, "validation": 1000}
SEEDS = {"train": 101, "validation": 202}
PLURAL_YOU, FEMALE_FRIEND = 0.3, 0.3
# What English leaves open, with its likelier reading.
LIKELIER = {YOU_ALL: YOU, **dict(zip(FEMALE_FRIENDS, MALE_FRIENDS, strict=True))}
T = TypeVar("T")


class Writer:
    """Draws random meanings."""

    def __init__(self, seed: int):
        self.random = random.Random(seed).random  # Python guarantees the sequence of `random()` across versions
        self.you = YOU

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def sentence(self) -> Sentence:
        """A statement, a question, a sentence about what somebody thinks, or two clauses with a conjunction."""
        self.you = YOU_ALL if self.chance(PLURAL_YOU) else YOU  # the same throughout a sentence
        kind = self.random()
        if kind < 0.5:
            return Sentence(self.clause(time=0.3, place=0.25, then=0.2), time_first=self.chance(0.5))
        if kind < 0.62:
            return Sentence(self.clause(place=0.2), is_question=True)
        if kind < 0.8:
            thinking = Clause(self.subject(), self.pick(THAT_VERBS), self.tense(), self.chance(0.2))
            return Sentence(thinking, conjunction="that", subordinate=self.clause(time=0.2))
        return Sentence(
            self.clause(),
            conjunction=self.pick(tuple(CONJUNCTIONS)),
            subordinate=self.clause(time=0.2),
            subordinate_first=self.chance(0.4),
        )

    def clause(self, time: float = 0.0, place: float = 0.0, then: float = 0.0) -> Clause:
        """A clause; the probabilities are those of a time, of a place, and of a second verb."""
        tense, kind, negated = self.tense(), self.random(), self.chance(0.2)
        clause = Clause(self.subject(), SEEING_VERBS[0], tense, negated)
        if kind < 0.09:
            verb, english_object, orlish_object = self.pick(IDIOMS)
            clause = replace(clause, verb=verb, object=FixedObject(english_object, orlish_object))
        elif kind < 0.27:
            clause = replace(
                clause, verb=self.pick(VERBS_ALONE), place=self.place() if self.chance(place * 2) else None
            )
        elif kind < 0.5:
            other = self.other(clause.subject)
            clause = replace(clause, verb=self.pick((*PERSON_VERBS, *SEEING_VERBS)), object=other)
        else:
            clause = replace(clause, verb=self.pick((*THING_VERBS, *SEEING_VERBS)), object=self.thing())
            if self.chance(place):
                clause = replace(clause, place=self.place())
            if not negated and self.chance(then):
                clause = replace(clause, then=self.pick(THING_VERBS))
        return replace(clause, time=self.pick(tuple(TIMES[tense].items()))) if self.chance(time) else clause

    def tense(self) -> str:
        return self.pick(("past", "past", "present", "present", "future"))

    def pronoun(self) -> Pronoun:
        return self.pick((*PRONOUNS, self.you))

    def subject(self) -> NounPhrase | Pronoun:
        """Somebody, who may have a relative clause."""
        if self.chance(0.35):
            return self.pronoun()
        somebody = self.somebody()
        if not self.chance(0.1):
            return somebody
        relative = Clause(somebody, self.pick(THING_VERBS), self.pick(("past", "present")), object=self.thing(0.2))
        return replace(somebody, relative=relative)

    def other(self, subject: NounPhrase | Pronoun) -> NounPhrase | Pronoun:
        """Somebody or an animal, but never the subject of the first or second person once more."""
        if not self.chance(0.35):
            return self.somebody() if self.chance(0.6) else self.phrase(self.pick(ANIMALS))
        pronoun = self.pronoun()
        while pronoun.person % 3 == subject.person % 3 != 2:
            pronoun = self.pronoun()
        return pronoun

    def somebody(self) -> NounPhrase:
        if not self.chance(0.15):
            return self.phrase(self.pick(PERSONS))
        return self.phrase(self.pick(FEMALE_FRIENDS if self.chance(FEMALE_FRIEND) else MALE_FRIENDS))

    def thing(self, adjective: float = 0.4) -> NounPhrase:
        """A thing or an animal, or a number of them."""
        phrase = self.phrase(self.pick((*THINGS, *ANIMALS)), adjective)
        if not self.chance(0.12):
            return phrase
        return replace(phrase, plural=True, number=2 + int(self.random() * 98))

    def place(self) -> tuple[str, NounPhrase]:
        return self.pick(tuple(PREPOSITIONS)), NounPhrase(self.pick(PLACES))

    def phrase(self, noun: Noun, adjective: float = 0.2) -> NounPhrase:
        plural = self.chance(0.3)
        determiner = self.pick(("the", "the", "the", "my", "our") if plural else ("the", "the", "a", "a", "my", "our"))
        fitting = tuple(ADJECTIVES) if noun in (*THINGS, *ANIMALS) else PERSON_ADJECTIVES
        chosen = self.pick(fitting) if self.chance(adjective) else None
        return NounPhrase(noun, plural, determiner, adjective=chosen)


def likeliest(part: T) -> T:
    """A meaning, or a part of one, with the likelier reading of everything that English leaves open."""
    if part in LIKELIER:
        return LIKELIER[part]
    if not is_dataclass(part) or isinstance(part, type):
        return part
    return replace(part, **{field.name: likeliest(getattr(part, field.name)) for field in fields(part)})


@dataclass(frozen=True)
class Row:
    """An English sentence, its translation, and the translation of the best translator, who knows the grammar."""

    english: str
    orlish: str
    best: str


@cache
def rows(split: str) -> tuple[Row, ...]:
    """All rows of "train" or "validation", in file order; no English sentence occurs twice, in one split or in both."""
    used = {row.english for row in rows("validation")} if split == "train" else set()
    writer, drawn = Writer(SEEDS[split]), []
    while len(drawn) < NUM_ROWS[split]:
        sentence = writer.sentence()
        text = english(sentence)
        if text not in used:
            used.add(text)
            drawn.append(Row(text, orlish(sentence), orlish(likeliest(sentence))))
    return tuple(drawn)


def ceiling(split: str = "validation") -> float:
    """The exact match of the best translator, who takes the likelier reading of all that English leaves open."""
    return sum(row.best == row.orlish for row in rows(split)) / NUM_ROWS[split]


def write(folder: Path = HERE) -> None:
    """Write train.jsonl and validation.jsonl into `folder`."""
    for split in NUM_ROWS:
        records = [{"english": row.english, "orlish": row.orlish} for row in rows(split)]
        lines = [json.dumps(record, sort_keys=True) + "\n" for record in records]
        Path(folder, f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
