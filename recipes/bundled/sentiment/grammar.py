"""Writes the rows of sentiment_bert: English reviews from a small grammar that also computes their labels.

    python -m recipes.bundled.sentiment.grammar

rewrites `train.jsonl` and `validation.jsonl` beside this file, byte for byte the same on every machine. A word has a
polarity (+1 or -1), a frame ("was hardly {word}") keeps or reverses it, and a rule that joins two clauses ("although
{a}, {b}") names the clause that carries the verdict. A `Clause` knows its polarity from the rules that built it, so the
label of a sentence follows from its derivation; the generator only chooses the rules.

The labeled reviews and the unlabeled sentences for pretraining come from the same rules, mixed differently (`Style`).
The general sentences negate and contrast less, so that a model can learn from them, without labels, which words praise
and which blame. Only the labels show how negation and contrast turn these words into a verdict.

Reading order: the words, the rules (`make_clause`, `join`), the random choices (`Writer`), the files (`rows`).
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
NUM_ROWS = {"train": 4000, "validation": 1000}
SEEDS = {"train": 101, "validation": 202}
LABEL_NOISE = 0.05
MAX_WORDS = 40


def words(text: str) -> tuple[str, ...]:
    """Split a comma-separated table into its entries."""
    return tuple(" ".join(entry.split()) for entry in text.split(","))


POLARITY_WORDS = {
    +1: words("""good, great, excellent, lovely, superb, brilliant, pleasant, impressive, delightful, charming,
        splendid, perfect"""),
    -1: words("""bad, poor, awful, terrible, dull, dreadful, boring, disappointing, horrible, annoying,
        shabby, useless"""),
}

# What a review is about: things of one kind, how the reviewer came to know it, and the parts of such a thing.
TOPICS = (
    (words("film, movie, comedy, thriller"), "I watched this {thing} with {company}",
     words("plot, story, ending, cast, acting, director, dialogue, music")),
    (words("restaurant, bistro, diner, tavern"), "I ate at this {thing} with {company}",
     words("soup, steak, dessert, bread, waiter, menu, service, wine")),
    (words("hotel, hostel, resort, guesthouse"), "I stayed at this {thing} with {company}",
     words("room, bed, bathroom, lobby, porter, view, breakfast, garden")),
    (words("book, novel, memoir, biography"), "I read this {thing} together with {company}",
     words("prose, style, opening, hero, villain, chapter, ending, cover")),
    (words("phone, laptop, camera, printer"), "I bought this {thing} together with {company}",
     words("screen, keyboard, case, charger, manual, battery, speaker, design")),
)  # fmt: skip
WHEN = words("""last spring, on a rainy Tuesday, over the holidays, one Friday evening, during a business trip,
    last month, after a long day at work, just before the weekend""")
COMPANY = words("my parents, two colleagues, my cousin, a group of students, the children, my aunt")
OPENINGS = words("in my view, to be honest, all things considered, looking back, for the record")
DEGREES = {
    1: words("somewhat, fairly, slightly"),
    2: words("very, quite, really"),
    3: words("truly, extremely, utterly"),
}

# A frame is (template, sign): +1 keeps the polarity of its words, -1 reverses it.
FRAMES = (
    ("{s} was {w}", +1), ("{s} was {w}", +1), ("{s} seemed {w}", +1), ("I found {s} {w}", +1),
    ("{s} was never less than {w}", +1),
    ("{s} was not {w}", -1), ("{s} was never {w}", -1), ("{s} was hardly {w}", -1), ("{s} did not seem {w}", -1),
    ("I did not find {s} {w}", -1), ("{s} was anything but {w}", -1),
)  # fmt: skip

# A join is (template, the clause that carries the verdict). With "both" the clauses must agree, with the others they
# must oppose each other; with "stronger" the clause of the higher degree carries the verdict.
AGREEMENTS = (("{a} and {b}", "both"), ("{a}, and {b}", "both"), ("{a}; besides, {b}", "both"))
CONTRASTS = (
    ("{a}, but {b}", "b"), ("{a}, yet {b}", "b"), ("although {a}, {b}", "b"), ("while {a}, {b}", "b"),
    ("{a}, although {b}", "a"), ("{a}, even if {b}", "a"),
)  # fmt: skip
WEIGHINGS = (("{a}, whereas {b}", "stronger"),)


@dataclass(frozen=True)
class Style:
    """Probabilities of a negated clause, and of joining two clauses: agreeing, weighed by degree, or in contrast."""

    negated: float
    agreeing: float
    weighing: float
    contrasting: float


REVIEWS = Style(negated=0.20, agreeing=0.25, weighing=0.05, contrasting=0.25)
GENERAL = Style(negated=0.10, agreeing=0.65, weighing=0.05, contrasting=0.10)


@dataclass(frozen=True)
class Clause:
    """A piece of English, its polarity (+1 praise, -1 blame) and its strength (1 weak, 2 plain, 3 strong)."""

    text: str
    polarity: int
    strength: int = 2


def make_clause(frame: tuple[str, int], subject: str, phrase: str, polarity: int, strength: int = 2) -> Clause:
    """Put a subject and words of known polarity into a frame, which keeps or reverses the polarity."""
    template, sign = frame
    return Clause(template.format(s=subject, w=phrase), sign * polarity, strength)


def join(rule: tuple[str, str], a: Clause, b: Clause) -> Clause:
    """Join two clauses; the polarity of the result is that of the clause that carries the verdict.

    Raises ValueError if the rule does not allow the clauses: opposed ones with "and", agreeing ones with "but".
    """
    template, carrier = rule
    if (carrier == "both") != (a.polarity == b.polarity):
        relation = "agree" if carrier == "both" else "oppose each other"
        raise ValueError(f"{template!r} joins clauses that {relation}, got: {a}, {b}")
    if carrier == "stronger" and a.strength == b.strength:
        raise ValueError(f"{template!r} needs one clause stronger than the other, got: {a}, {b}")
    chosen = {"both": a, "a": a, "b": b, "stronger": max(a, b, key=lambda clause: clause.strength)}[carrier]
    return Clause(template.format(a=a.text, b=b.text), chosen.polarity)


class Writer:
    """Draws random derivations for a wanted verdict; the rules above compute the verdict that results."""

    def __init__(self, seed: int, style: Style = REVIEWS):
        self.style = style
        self.random = random.Random(seed).random  # Python guarantees the sequence of `random()` across versions
        self.subjects: list[str] = []

    def pick(self, options: tuple | list):
        return options[int(self.random() * len(options))]

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def clause(self, polarity: int) -> Clause:
        """A statement about one subject, sometimes in a frame that reverses its words."""
        sign = -1 if self.chance(self.style.negated) else +1
        frame = self.pick([frame for frame in FRAMES if frame[1] == sign])
        phrase = self.word_list(POLARITY_WORDS[polarity * sign], "and" if sign > 0 else "or")
        if self.chance(0.2):
            phrase = f"{self.pick(DEGREES[2])} {phrase}"
        return make_clause(frame, self.subject(), phrase, polarity * sign)

    def weighed(self, polarity: int, strength: int) -> Clause:
        """A clause with a degree word, which decides how much it weighs."""
        phrase = f"{self.pick(DEGREES[strength])} {self.pick(POLARITY_WORDS[polarity])}"
        return make_clause(FRAMES[0], self.subject(), phrase, polarity, strength)

    def subject(self) -> str:
        """A part of the reviewed thing; a review mentions each part once."""
        return f"the {self.subjects.pop(int(self.random() * len(self.subjects)))}"

    def word_list(self, choices: tuple[str, ...], conjunction: str) -> str:
        """One, two or three different words: "good", "good and fair", "good, fair and clean"."""
        chosen = []
        for probability in (1, 0.5, 0.4):
            if not self.chance(probability):
                break
            chosen.append(self.pick([word for word in choices if word not in chosen]))
        *first, last = chosen
        return f"{', '.join(first)} {conjunction} {last}" if first else last

    def verdict(self, polarity: int) -> Clause:
        """The core of a review: one statement, or two joined."""
        kind = self.random()
        style = self.style
        if kind < style.agreeing:
            return join(self.pick(AGREEMENTS), self.clause(polarity), self.clause(polarity))
        if kind < style.agreeing + style.weighing:
            clauses = [self.weighed(polarity, 3), self.weighed(-polarity, 1)]
            return join(self.pick(WEIGHINGS), *(clauses if self.chance(0.5) else reversed(clauses)))
        if kind > style.agreeing + style.weighing + style.contrasting:
            return self.clause(polarity)
        rule = self.pick(CONTRASTS)
        polarity_of_a = polarity if rule[1] == "a" else -polarity
        return join(rule, self.clause(polarity_of_a), self.clause(-polarity_of_a))

    def review(self) -> tuple[str, str]:
        """A review, one sentence of at most MAX_WORDS words, and its label."""
        things, opening, parts = self.pick(TOPICS)
        thing = self.pick(things)
        self.subjects = [*parts, thing]
        clause = self.verdict(self.pick((+1, -1)))
        text, kind = clause.text, self.random()
        if kind < 0.25:
            text = f"{self.pick(WHEN)} {opening.format(thing=thing, company=self.pick(COMPANY))}, and {text}"
        elif kind < 0.4:
            text = f"{self.pick(OPENINGS)}, {text}"
        if len(text.split()) > MAX_WORDS:
            return self.review()
        return text[0].upper() + text[1:] + ".", "positive" if clause.polarity > 0 else "negative"


@dataclass(frozen=True)
class Row:
    """A review, the label that the grammar computed, and the label in the file, which noise may have flipped."""

    text: str
    clean_label: str
    label: str


@cache
def rows(split: str) -> tuple[Row, ...]:
    """All rows of "train" or "validation", in file order; no text occurs twice, within a split or across both."""
    used = {row.text for row in rows("validation")} if split == "train" else set()
    writer, drawn = Writer(SEEDS[split]), []
    while len(drawn) < NUM_ROWS[split]:
        text, clean_label = writer.review()
        flipped = writer.chance(LABEL_NOISE)
        if text not in used:
            used.add(text)
            other = "negative" if clean_label == "positive" else "positive"
            drawn.append(Row(text, clean_label, other if flipped else clean_label))
    return tuple(drawn)


def noise_ceiling(split: str = "validation") -> float:
    """The accuracy of a model that knows the grammar: 1 - the share of labels that noise flipped."""
    return sum(row.label == row.clean_label for row in rows(split)) / NUM_ROWS[split]


def pretraining_sentences(seed: int, count: int) -> Iterator[str]:
    """Yield `count` different sentences without labels, none of the validation split."""
    writer, used = Writer(seed, GENERAL), {row.text for row in rows("validation")}
    while count:
        text, _ = writer.review()
        if text not in used:
            used.add(text)
            count -= 1
            yield text


def write(folder: Path = HERE) -> None:
    """Write train.jsonl and validation.jsonl into `folder`."""
    for split in NUM_ROWS:
        records = [{"text": row.text, "label": row.label} for row in rows(split)]
        lines = [json.dumps(record, sort_keys=True) + "\n" for record in records]
        Path(folder, f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
