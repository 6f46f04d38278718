"""Writes the rows of stories_gpt2: stories from a weighted grammar, each with its exact probability.

    python -m recipes.bundled.stories.grammar

rewrites `train.jsonl` and `validation.jsonl` beside this file, byte for byte the same on every machine.

Every rule has two weights. The first gives the general grammar, on whose stories the checkpoint is pretrained. The
second gives the style on which it is fine-tuned: fairy tales, in which heroes, places and turns of phrase are mixed
differently, with some rules of their own. Since the style is known, so is the best possible loss on its text: -log p,
where p sums over all derivations of the text (`log_probability`, the inside algorithm). A model can only do better by
luck.

The hero, the name of the hero and the lost thing come back later in a story. A context-free grammar remembers them in
its symbols: the rules in `HERO_RULES` and `THING_RULES` are written once and copied for every hero, name and thing.

Reading order: the rules, the class `Grammar`, the two grammars (`general`, `style`), the files (`rows`).
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
NUM_ROWS = {"train": 2000, "validation": 800}
SEEDS = {"train": 404, "validation": 505}

# A line is "SYMBOL: alternative | alternative". An alternative consists of symbols, words and punctuation marks and can
# end with its weights "general/style" (1/1 if they are missing). Weight 0 means that the grammar lacks the rule.
COMMON_RULES = """
WHEN: one day 3/2 | one night 1/3 | next morning 3/1 | that evening 3/1 | one time 2/0 | long after 1/1
PLACE: river 2/1 | hill 2/1 | forest 1/5 | village 3/1 | bridge 2/1 | castle 1/6 | mill 2/1 | market 4/0 | tower 1/4
PLACE: garden 2/2 | harbour 3/0 | church 2/1 | farm 4/1 | lake 2/3
NEAR: near 4/2 | behind 3/2 | by 3/1 | beyond 1/4 | beneath 1/3
PP: NEAR the PLACE
KIND: kind 2/2 | clever 2/2 | brave 1/4 | quiet 3/1 | busy 3/0 | young 3/3 | poor 1/4 | proud 1/3 | cheerful 3/1
LOOK: golden 1/5 | silver 1/4 | wooden 3/1 | red 3/1 | small 3/1 | great 2/1 | dear 1/1 | magic 1/5
BEAST: wolf 1/5 | fox 2/3 | bear 1/3 | cat 4/1 | dog 4/1 | raven 1/3 | goat 3/1 | giant 1/4 | dwarf 1/4 | horse 3/1
BEASTS: wolves 1/5 | foxes 2/3 | bears 1/3 | cats 4/1 | dogs 4/1 | ravens 1/3 | goats 3/1 | giants 1/4 | dwarfs 1/4
BEASTS: horses 3/1
ONE: a BEAST 2/1 | the BEAST 2/3 | the BEASTS 1/1 | three BEASTS 1/2
SOME: ONE 3/2 | the BEAST and the BEAST 1/1
WHOM: SOME 1/1 | ONE PP 2/2 | the BEAST and ONE PP 1/1
MOOD: hungry 2/3 | happy 3/1 | tired 3/1 | angry 1/3 | afraid 1/3 | asleep 2/2 | awake 2/1
SAW: saw 3/2 | met 2/3 | heard 2/2 | followed 2/2 | fed 3/0 | feared 0.5/2
WENT: walked 4/2 | went 3/1 | ran 3/2 | rode 1/4 | stood 2/1
TOOK: took 2/2 | stole 1/4 | hid 2/2 | broke 2/0
FOUND: found 3/3 | saw 2/1
CAME: came 2/4 | ran 3/1 | flew 0.5/2
"""

HERO_RULES = """
OPEN.{h}: a KIND {hero} named {name} lived PP . 4/1
OPEN.{h}: there was once a KIND {hero} named {name} . 3/1
OPEN.{h}: {name} was a KIND {hero} PP . 4/0
OPEN.{h}: long ago , {name} was a {hero} PP . 2/0
OPEN.{h}: {name} was the name of a KIND {hero} . 2/0 | once there was a KIND {hero} named {name} . 2/0
OPEN.{h}: once upon a time there lived a KIND {hero} named {name} . 0/4
OPEN.{h}: long ago there lived a {hero} named {name} PP . 0/2

SHE.{h}: {she} 3/2 | {name} 3/2 | the {hero} 2/4

SCENE.{h}: SHE.{h} DID.{h} . 4/2 | WHEN , SHE.{h} DID.{h} . 3/2 | CROWD.{h} . 2/1
SCENE.{h}: CROWD.{h} , but SHE.{h} was not MOOD . 1/1 | upon the PLACE SHE.{h} SAW ONE . 1/1
SCENE.{h}: out of the PLACE CAME ONE , and SHE.{h} was MOOD . 0/3
SCENE.{h}: never had {she} seen SOME so MOOD . 0/2 | never was SHE.{h} MOOD . 1/0
SCENE.{h}: out of the PLACE SHE.{h} WENT . 1/0 | and so SHE.{h} WENT PP . 1/0 | great was the BEAST PP . 1/0
DID.{h}: WENT PP 3/1 | SAW WHOM 2/2 | SAW SOME PP 3/3 | was as MOOD as ever 1/0 | never SAW SOME 1/0
DID.{h}: CAME out of the PLACE 1/0 | CAME upon ONE 1/0
DID.{h}: was so MOOD 2/1 | was MOOD when {she} SAW ONE 1/1 | had seen SOME 1/0
CROWD.{h}: the BEAST NEXT.{h} was MOOD | the BEASTS NEXT.{h} were MOOD
NEXT.{h}: PP 2/1 | NEAR the BEASTS 1/1 | NEAR the BEAST 1/1 | that {she} SAW 1/2 | that SAW {him} 1/2
"""

THING_RULES = """
REST.{h}.{o}: LOSS.{h}.{o} END.{h}.{o} 3/2 | LOSS.{h}.{o} SCENE.{h} END.{h}.{o} 4/4
REST.{h}.{o}: LOSS.{h}.{o} ASK.{h}.{o} END.{h}.{o} 2/2 | LOSS.{h}.{o} SCENE.{h} ASK.{h}.{o} END.{h}.{o} 2/1
LOSS.{h}.{o}: {she} had a LOOK {o} . 3/1 | {name} had lost {his} LOOK {o} . 3/1 | {she} wanted a LOOK {o} . 3/1
LOSS.{h}.{o}: nothing was dear to {him} but a {o} . 1/0
LOSS.{h}.{o}: a BEAST TOOK {his} LOOK {o} . 2/3 | WHEN , ONE TOOK {his} {o} . 2/2
LOSS.{h}.{o}: nothing was so dear to {him} as {his} {o} . 0/3
ASK.{h}.{o}: SHE.{h} asked ONE for the {o} . 3/2 | ONE hid the {o} PP . 2/1
ASK.{h}.{o}: SHE.{h} asked for {his} {o} three times . 2/0
ASK.{h}.{o}: three times SHE.{h} asked ONE for {his} {o} . 0/3
THING.{o}: the {o} 2/2 | the {o} PP 3/3
END.{h}.{o}: at last SHE.{h} FOUND THING.{o} . 2/1 | at last SHE.{h} FOUND THING.{o} PP . 1/1
END.{h}.{o}: SHE.{h} gave the {o} to ONE . 3/1 | SHE.{h} walked home happily with {his} {o} . 4/1
END.{h}.{o}: ONE brought the {o} , and {she} was MOOD . 3/2 | SHE.{h} had the {o} , full of joy . 1/0
END.{h}.{o}: and with the {o} {she} lived happily ever after . 0/3
END.{h}.{o}: great was the joy when SHE.{h} FOUND THING.{o} . 0/3
"""

# The weights are general/style, as above.
HEROES = {
    "she": "girl 4/1 | baker 3/0 | teacher 3/0 | widow 2/1 | queen 1/3 | princess 1/5 | witch 1/3",
    "he": "boy 4/1 | farmer 3/1 | sailor 3/0 | miller 2/1 | king 1/3 | prince 1/5 | knight 1/3",
}
NAMES = {"she": "Mara 2/2 | Ida 3/1 | Nell 3/1 | Rosa 1/3", "he": "Tom 3/1 | Finn 2/2 | Otto 1/3 | Jack 3/1"}
PRONOUNS = {"she": {"she": "she", "him": "her", "his": "her"}, "he": {"she": "he", "him": "him", "his": "his"}}
THINGS = "ring 2/4 | key 3/2 | lamp 3/2 | book 4/0 | coat 3/1 | crown 1/4 | mirror 2/3 | cup 3/1 | boat 3/0 | sword 1/4"


def weighted(alternative: str) -> tuple[tuple[str, ...], tuple[float, float]]:
    """Split "a b c 2/0.5" into its parts and its weights (general, style), which are (1, 1) if it names none."""
    *parts, last = alternative.split()
    if "/" not in last:
        return (*parts, last), (1.0, 1.0)
    general, style = last.split("/")
    return tuple(parts), (float(general), float(style))


def rule_lines() -> Iterator[str]:
    """Yield every line of the grammar: the common rules, then the copies for each hero, name and thing."""
    yield from COMMON_RULES.splitlines()
    things = [weighted(entry) for entry in THINGS.split("|")]
    for gender, heroes in HEROES.items():
        for (hero,), (general, style) in map(weighted, heroes.split("|")):
            yield f"STORY: HERO.{hero} {general}/{style}"
            for (name,), (general_name, style_name) in map(weighted, NAMES[gender].split("|")):
                h = f"{hero}.{name}"
                yield f"HERO.{hero}: OPEN.{h} REST.{h} {general_name}/{style_name}"
                words = {"hero": hero, "name": name, "h": h, **PRONOUNS[gender]}
                yield from HERO_RULES.format(**words).splitlines()
                for (o,), (general_thing, style_thing) in things:
                    yield f"REST.{h}: REST.{h}.{o} {general_thing}/{style_thing}"
                    yield from THING_RULES.format(o=o, **words).splitlines()


class Grammar:
    """A context-free grammar with probabilities, from lines of "SYMBOL: alternative | alternative".

    `column` chooses the weight from "general/style". A symbol is written in capitals (up to its first dot); anything
    else is a word or a punctuation mark. Raises ValueError if a symbol has no rule or can begin with itself.
    """

    def __init__(self, lines, column: int, start: str = "STORY"):
        self.start = start
        weights = defaultdict(dict)
        for line in filter(str.strip, lines):
            symbol, alternatives = line.split(": ", 1)
            for parts, pair in map(weighted, alternatives.split("|")):
                if pair[column]:
                    weights[symbol][parts] = weights[symbol].get(parts, 0.0) + pair[column]
        self.rules = {
            symbol: [(parts, weight / sum(options.values())) for parts, weight in options.items()]
            for symbol, options in weights.items()
        }
        words = {part for rules in self.rules.values() for parts, _ in rules for part in parts} - set(self.rules)
        for word in sorted(words):
            if word.split(".")[0].isupper():
                raise ValueError(f"{word} has no rule")
        self.names = {word for word in words if word.istitle()}
        self._by_first_word = {}
        for symbol in self.rules:
            self._index(symbol, ())

    def _index(self, symbol: str, above: tuple[str, ...]) -> set[str]:
        """The words that the symbol can begin with; also files its rules by them, since few rules fit any one word."""
        if symbol in above:
            raise ValueError(f"{symbol} can begin with itself: {' -> '.join((*above, symbol))}")
        if symbol not in self.rules:
            return {symbol}
        if symbol not in self._by_first_word:
            rules_by_word = defaultdict(list)
            for rule in self.rules[symbol]:
                for word in self._index(rule[0][0], (*above, symbol)):
                    rules_by_word[word].append(rule)
            self._by_first_word[symbol] = rules_by_word
        return set(self._by_first_word[symbol])

    def longest(self) -> int:
        """The most words and punctuation marks that a text can have. Only for a grammar without recursion."""

        @cache
        def length(symbol):
            if symbol not in self.rules:
                return 1
            return max(sum(map(length, parts)) for parts, _ in self.rules[symbol])

        return length(self.start)

    def sample(self, random) -> tuple[list[str], float]:
        """Draw a derivation with `random()` in [0, 1); returns its words and the log of its own probability."""
        words, log_p, pending = [], 0.0, [self.start]
        while pending:
            symbol = pending.pop()
            if symbol not in self.rules:
                words.append(symbol)
                continue
            options, point = self.rules[symbol], random()
            for parts, probability in options:  # noqa: B007, rounding may leave a gap: then the last alternative is taken
                point -= probability
                if point < 0:
                    break
            log_p += math.log(probability)
            pending.extend(reversed(parts))
        return words, log_p

    def log_probability(self, words: list[str], best: bool = False) -> float:
        """The natural log of p(words), summed over all derivations; -inf if there is none.

        With `best`, only the most probable derivation counts. This is the inside algorithm (Baker 1979; Manning and
        Schütze 1999, section 11.3.1), memoized from the left: with beta(A, i, k) = P(A yields words i to k), a rule
        A -> B C of probability p adds p * beta(B, i, j) * beta(C, j, k) to beta(A, i, k) for every j. `ends` returns
        beta(A, i, k) for all k at once; rules can have any number of parts. In float64 a story is far from underflow.
        """
        join = max if best else float.__add__

        @cache
        def ends(symbol, i):
            if i == len(words):
                return {}
            if symbol not in self.rules:
                return {i + 1: 1.0} if words[i] == symbol else {}
            beta = {}
            for parts, probability in self._by_first_word[symbol].get(words[i], ()):
                reached = {i: probability}
                for part in parts:
                    onward = {}
                    for j, p in reached.items():
                        for k, q in ends(part, j).items():
                            onward[k] = join(onward.get(k, 0.0), p * q)
                    reached = onward
                for k, p in reached.items():
                    beta[k] = join(beta.get(k, 0.0), p)
            return beta

        p = ends(self.start, 0).get(len(words), 0.0)
        return math.log(p) if p else -math.inf


@cache
def general() -> Grammar:
    """The grammar of the pretraining text."""
    return Grammar(rule_lines(), column=0)


@cache
def style() -> Grammar:
    """The grammar of the fairy tales in train.jsonl and validation.jsonl."""
    return Grammar(rule_lines(), column=1)


def render(words: list[str]) -> str:
    """Words and punctuation marks as text: sentences begin with a capital letter, marks follow their word."""
    text, begins = "", True
    for word in words:
        text += word if word in (".", ",") else f" {word.capitalize() if begins else word}"
        begins = word == "."
    return text.strip()


def unrender(text: str, names: set[str]) -> list[str]:
    """The inverse of `render`: the words of a text, in which only names keep their capital letter."""
    words = re.findall(r"[A-Za-z]+|[.,]", text)
    return [word if word in names else word.lower() for word in words]


def log_probability(text: str, grammar: Grammar | None = None) -> float:
    """The natural log of the probability of a whole text, including its end, under the style (or another grammar)."""
    grammar = grammar or style()
    words = unrender(text, grammar.names)
    # A text with other capitals or spaces is one that the grammar cannot write.
    return grammar.log_probability(words) if render(words) == text else -math.inf


@cache
def rows(split: str) -> tuple[tuple[str, float], ...]:
    """All stories of "train" or "validation" in file order, independent draws from the style, each with -log p."""
    random = Random(SEEDS[split]).random  # Python guarantees the sequence of `random()` across versions
    texts = [render(style().sample(random)[0]) for _ in range(NUM_ROWS[split])]
    return tuple((text, -log_probability(text)) for text in texts)


def pretraining_stories(seed: int, count: int) -> Iterator[str]:
    """Yield `count` stories of the general grammar, none of the validation split."""
    held_out, random = {text for text, _ in rows("validation")}, Random(seed).random
    while count:
        text = render(general().sample(random)[0])
        if text not in held_out:
            count -= 1
            yield text


def write(folder: Path = HERE) -> None:
    """Write train.jsonl and validation.jsonl into `folder`."""
    for split in NUM_ROWS:
        # Rounded to six decimals, so that machines whose logarithms differ in the last bit write the same file.
        records = [{"text": text, "floor_nats": round(floor_nats, 6)} for text, floor_nats in rows(split)]
        lines = [json.dumps(record) + "\n" for record in records]
        Path(folder, f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
