"""What a sentence of translate_transformer means, and how English and Orlish say it.

A `Sentence` is written by the two functions `english` and `orlish`, each by the rules of its language alone:

| | English | Orlish |
|---|---|---|
| adjective | before the noun | behind it, with the noun's gender and number |
| time | first or last | first; the subject then comes behind the finite verb |
| place | behind the object | before it |
| finite verb | behind the subject | second in a main clause, first in a question, last in all other clauses |
| past, future | one form, will + verb | auxiliary, and participle or infinitive at the end of the clause |
| verbs of two parts | pick ... up | the prefix stands at the end of a main clause, else before the stem |
| not | did not | ni before the finite verb, and pak |
| 23 | twenty-three | tar-e-dudek, three and twenty |
| it | it | lon or lan, by the gender of what it stands for |
"""

from dataclasses import dataclass

from recipes.bundled.translation.lexicon import (
    ADJECTIVE_ENDINGS,
    ADJECTIVES,
    AUXILIARIES,
    CONJUNCTIONS,
    DETERMINERS,
    NAMED_AGAIN,
    NOT,
    PERSON_ENDINGS,
    PLURAL_ENDING,
    PREPOSITIONS,
    RELATIVES,
    THAT,
    Noun,
    Pronoun,
    Verb,
    english_number,
    orlish_number,
)

THIRD_SINGULAR, THIRD_PLURAL = 2, 5


@dataclass(frozen=True)
class NounPhrase:
    """A noun with what goes with it: a determiner or, instead, a number; an adjective; a relative clause."""

    noun: Noun
    plural: bool = False
    determiner: str = "the"
    number: int | None = None
    adjective: str | None = None
    relative: "Clause | None" = None

    @property
    def person(self) -> int:
        """As of a pronoun."""
        return THIRD_PLURAL if self.plural else THIRD_SINGULAR

    @property
    def agreement(self) -> int:
        """Where its form is in the tables that have one for each gender and number."""
        return 2 * self.plural + (self.noun.gender == "f")


@dataclass(frozen=True)
class FixedObject:
    """The object of an idiom in both languages."""

    english: str
    orlish: str


@dataclass(frozen=True)
class Clause:
    """Who does what; in a relative clause the subject is the noun phrase that it belongs to, without the clause.

    `tense` is "present", "past" or "future"; `place` a preposition with a noun phrase; `time` has both languages'
    words. `then` is a second verb, for the same subject, whose object is "it" or "them": the object once more.
    """

    subject: NounPhrase | Pronoun
    verb: Verb
    tense: str
    negated: bool = False
    object: NounPhrase | Pronoun | FixedObject | None = None
    place: tuple[str, NounPhrase] | None = None
    time: tuple[str, str] | None = None
    then: Verb | None = None


@dataclass(frozen=True)
class Sentence:
    """A main clause, which may be a question, or have a subordinate clause after "that" or a conjunction.

    `time_first` and `subordinate_first` are the order of the English sentence.
    """

    main: Clause
    is_question: bool = False
    conjunction: str | None = None
    subordinate: Clause | None = None
    time_first: bool = False
    subordinate_first: bool = False


def english(sentence: Sentence) -> str:
    """The sentence in English, in small letters."""
    main = english_clause(sentence.main, sentence.is_question, sentence.time_first)
    if sentence.subordinate is None:
        return joined([main]) + ("?" if sentence.is_question else ".")
    subordinate = f"{sentence.conjunction} {english_clause(sentence.subordinate)}"
    parts = [subordinate, ",", main] if sentence.subordinate_first else [main, subordinate]
    return joined(parts) + "."


def english_clause(clause: Clause, is_question: bool = False, time_first: bool = False) -> str:
    """A clause in English; that of a relative clause has "who" for its subject."""
    subject = clause.subject.english if isinstance(clause.subject, Pronoun) else english_phrase(clause.subject)
    return joined([
        clause.time[0] if clause.time and time_first else "",
        *english_predicate(clause, subject, is_question),
        english_place(clause),
        clause.time[0] if clause.time and not time_first else "",
        "" if clause.then is None else f"and {then_in_english(clause, clause.then)}",
    ])  # fmt: skip


def english_predicate(clause: Clause, subject: str, is_question: bool) -> list[str]:
    """Subject, verb and object, with "do" and "will" where English wants them."""
    verb, is_third = clause.verb, clause.subject.person == THIRD_SINGULAR
    helper = {"past": "did", "future": "will", "present": "does" if is_third else "do"}[clause.tense]
    objects = english_object(clause.object, verb.particle)
    if is_question:
        return [helper, subject, "not" if clause.negated else "", verb.base, *objects]
    if clause.negated or clause.tense == "future":
        return [subject, helper, "not" if clause.negated else "", verb.base, *objects]
    return [subject, english_form(verb, clause.tense, is_third), *objects]


def english_form(verb: Verb, tense: str, is_third: bool) -> str:
    """The verb without an auxiliary, or the one behind "will"."""
    return {"past": verb.past, "present": verb.third if is_third else verb.base, "future": verb.base}[tense]


def english_object(target: NounPhrase | Pronoun | FixedObject | None, particle: str) -> list[str]:
    """The object with the particle of the verb: "up the key", but "it up"."""
    if isinstance(target, Pronoun):
        return [target.english_object, particle]
    if isinstance(target, FixedObject):
        return [target.english, particle]
    return [particle, "" if target is None else english_phrase(target)]


def then_in_english(clause: Clause, verb: Verb) -> str:
    """The second verb with "it" or "them"."""
    is_plural = isinstance(clause.object, NounPhrase) and clause.object.plural
    form = english_form(verb, clause.tense, clause.subject.person == THIRD_SINGULAR)
    return joined([form, "them" if is_plural else "it", verb.particle])


def english_place(clause: Clause) -> str:
    """The place with its preposition, or nothing."""
    return f"{clause.place[0]} {english_phrase(clause.place[1])}" if clause.place else ""


def english_phrase(phrase: NounPhrase) -> str:
    """Determiner or number, adjective, noun, relative clause."""
    determiner = phrase.determiner if phrase.number is None else english_number(phrase.number)
    noun = phrase.noun.plural if phrase.plural else phrase.noun.english
    if determiner == "a" and (phrase.adjective or noun)[0] in "aeiou":
        determiner = "an"
    relative = "" if phrase.relative is None else joined(english_predicate(phrase.relative, "who", False))
    return joined([determiner, phrase.adjective or "", noun, relative])


def orlish(sentence: Sentence) -> str:
    """The sentence in Orlish, in small letters."""
    main, subordinate = sentence.main, sentence.subordinate
    if subordinate is None:
        is_question = sentence.is_question
        return joined(verb_first(main) if is_question else verb_second(main)) + ("?" if is_question else ".")
    linking = THAT if sentence.conjunction == "that" else CONJUNCTIONS[str(sentence.conjunction)]
    clause = joined([linking, *verb_last(subordinate)])
    if sentence.subordinate_first:
        return joined([clause, ",", *verb_first(main)]) + "."
    return joined([*verb_second(main), ",", clause]) + "."


def verb_second(clause: Clause) -> list[str]:
    """A main clause: the time, or else the subject, before the finite verb."""
    finite, rest = orlish_verb(clause.verb, clause.tense, clause.subject.person, is_main=True)
    subject, finite = orlish_subject(clause.subject), negated_finite(clause, finite)
    beginning = [subject, finite] if clause.time is None else [clause.time[1], finite, subject]
    return [*beginning, *middle(clause), rest, *then_in_orlish(clause)]


def verb_first(clause: Clause) -> list[str]:
    """A question, or a main clause behind its subordinate clause."""
    finite, rest = orlish_verb(clause.verb, clause.tense, clause.subject.person, is_main=True)
    time = "" if clause.time is None else clause.time[1]
    beginning = [negated_finite(clause, finite), orlish_subject(clause.subject), time]
    return [*beginning, *middle(clause), rest, *then_in_orlish(clause)]


def verb_last(clause: Clause, subject: str | None = None) -> list[str]:
    """A subordinate clause, or with a relative pronoun for its `subject` a relative one."""
    finite, rest = orlish_verb(clause.verb, clause.tense, clause.subject.person, is_main=False)
    time = "" if clause.time is None else clause.time[1]
    beginning = [orlish_subject(clause.subject) if subject is None else subject, time]
    return [*beginning, *middle(clause), rest, negated_finite(clause, finite), *then_in_orlish(clause)]


def orlish_verb(verb: Verb, tense: str, person: int, is_main: bool) -> tuple[str, str]:
    """The finite verb, and what stands at the end of a main clause: the prefix, the participle or the infinitive."""
    ending = PERSON_ENDINGS[person]
    if tense == "present":
        return (verb.stem + ending, verb.prefix) if is_main else (verb.prefix + verb.stem + ending, "")
    whole = f"{verb.prefix}ge{verb.stem}in" if tense == "past" else f"{verb.prefix}{verb.stem}ar"
    return AUXILIARIES[tense] + ending, whole


def negated_finite(clause: Clause, finite: str) -> str:
    """The finite verb with the first part of the negation before it."""
    return f"{NOT[0]} {finite}" if clause.negated else finite


def middle(clause: Clause) -> list[str]:
    """What stands between the subject and the end: a pronoun, the place, the object, the end of the negation."""
    target = clause.object
    place = "" if clause.place is None else f"{PREPOSITIONS[clause.place[0]]} {orlish_phrase(clause.place[1])}"
    is_pronoun = isinstance(target, Pronoun)
    return [
        target.orlish_object if is_pronoun else "",
        place,
        "" if is_pronoun else orlish_object(target),
        NOT[1] if clause.negated else "",
    ]


def orlish_object(target: NounPhrase | FixedObject | None) -> str:
    """An object that is no pronoun."""
    if isinstance(target, FixedObject):
        return target.orlish
    return "" if target is None else orlish_phrase(target)


def orlish_subject(subject: NounPhrase | Pronoun) -> str:
    """The subject, of either kind."""
    return subject.orlish if isinstance(subject, Pronoun) else orlish_phrase(subject)


def then_in_orlish(clause: Clause) -> list[str]:
    """The second verb with the pronoun that agrees with the object."""
    if clause.then is None or not isinstance(clause.object, NounPhrase):
        return []
    finite, rest = orlish_verb(clause.then, clause.tense, clause.subject.person, is_main=True)
    return ["e", finite, NAMED_AGAIN[clause.object.agreement], rest]


def orlish_phrase(phrase: NounPhrase) -> str:
    """Determiner or number, noun, adjective, relative clause between commas."""
    form = phrase.agreement
    determiner = DETERMINERS[phrase.determiner][form] if phrase.number is None else orlish_number(phrase.number)
    noun = phrase.noun.orlish + (PLURAL_ENDING if phrase.plural else "")
    adjective = ADJECTIVES[phrase.adjective] + ADJECTIVE_ENDINGS[form] if phrase.adjective else ""
    relative = [] if phrase.relative is None else [",", *verb_last(phrase.relative, RELATIVES[form]), ","]
    return joined([determiner, noun, adjective, *relative])


def joined(parts: list[str]) -> str:
    """The parts that are not empty, with a space between them but none before a comma."""
    return " ".join(part for part in parts if part).replace(" ,", ",")
