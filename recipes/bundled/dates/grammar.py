"""Writes the rows of dates_t5: English dates from a small grammar, each with its ISO 8601 form.

    python -m recipes.bundled.dates.grammar

rewrites `train.jsonl` and `validation.jsonl` beside this file, byte for byte the same on every machine. A form is a
template ("the {nth} of {March}, {Y}") that can write any day; `write_day` fills it in, so the target of a row follows
from the day and not from the text. Only unambiguous forms are used: 3/4/1984 does not occur, 25/4/1984 does.

The texts for pretraining have no targets. Some write one day twice, or several consecutive days, but no text has both a
free form and the ISO form: only the training rows show that "March" becomes 03.

Reading order: the words, the rules (`write_day`), the random choices (`Writer`), the files (`rows`).
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
NUM_ROWS = {"train": 3000, "validation": 1000}
SEEDS = {"train": 101, "validation": 202}
FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2039, 12, 31)

ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
        "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
IRREGULAR = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth"}  # fmt: skip
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# What each slot of a form below can be replaced by. An entry that stands twice is chosen twice as often.
SLOTS = {
    "ordinal": ("{nth}", "{third}"),
    "month": ("{March}", "{March}", "{Mar}"),
    "year": ("{Y}", "{Y}", "{year_in_words}"),
    "weekday": ("{Saturday}", "{Saturday}", "{Sat}"),
}
FORMS = (
    "{{d}} {month} {year}",
    "{month} {{d}}, {year}",
    "{month} {ordinal}, {year}",
    "{month} the {ordinal}, {year}",
    "the {ordinal} of {month}, {year}",
    "the {ordinal} of {month} in the year {year}",
    "the {ordinal} day of {month}, {year}",
    "{{d}}-{{Mar}}-{{Y}}",
)
# What can stand around a form; {} is the place of the form.
FRAMES = ("{}", "{}", "on {}", "{weekday}, {}", "on {weekday}, {}", "{}, a {{Saturday}}")
YEAR_FIRST_FORMS = (
    "in {year}, on the {ordinal} of {month}",
    "in the year {year}, on {month} the {ordinal}",
    "{{Y}}, {month} {{d}}",
)
# Digits only. Unless the year comes first, the day must be over 12, so that it cannot be taken for the month.
YEAR_FIRST_DIGITS = ("{Y}/{m}/{d}", "{Y}/{mm}/{dd}", "{Y}.{mm}.{dd}")
LATE_DAY_DIGITS = ("{d}/{m}/{Y}", "{m}/{d}/{Y}", "{d}.{m}.{Y}")
LARGEST_MONTH = 12
ISO = "{Y}-{mm}-{dd}"
JOINS = ("; ", " or ", ", that is ")


def cardinal(number: int) -> str:
    """Write 1 to 99 in words: 84 is "eighty-four"."""
    if number < 20:
        return ONES[number - 1]
    tens, ones = divmod(number, 10)
    return "-".join([TENS[tens - 2], *ONES[ones - 1 : ones]]) if ones else TENS[tens - 2]


def ordinal(number: int) -> str:
    """Write 1 to 99 as an ordinal in words: 21 is "twenty-first"."""
    *tens, last = cardinal(number).split("-")
    return "-".join([*tens, IRREGULAR.get(last, f"{last}th")])


def nth(number: int) -> str:
    """Write 1 to 99 as an ordinal in digits: "21st"."""
    if number // 10 == 1:
        return f"{number}th"
    return str(number) + {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def year_in_words(year: int) -> str:
    """Write a year from 1900 to 2099 as spoken: "nineteen oh four", "two thousand and four", "twenty fourteen"."""
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return f"two thousand and {cardinal(rest)}" if rest else "two thousand"
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} oh {cardinal(rest)}" if rest < 10 else f"{cardinal(century)} {cardinal(rest)}"


def write_day(form: str, day: date) -> str:
    """Write a day in a form such as "the {nth} of {March}, {Y}"; the slots are named after 1984-03-03, a Saturday."""
    month, weekday = MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
    return form.format(
        d=day.day,
        dd=f"{day.day:02}",
        nth=nth(day.day),
        third=ordinal(day.day),
        m=day.month,
        mm=f"{day.month:02}",
        March=month,
        Mar=month[:3],
        Y=day.year,
        year_in_words=year_in_words(day.year),
        Saturday=weekday,
        Sat=weekday[:3],
    )


def consecutive_days(first: date, unit: str, length: int) -> list[date]:
    """`length` days, each one "day", "month" or "year" after the one before."""
    if unit == "day":
        return [first + timedelta(days=k) for k in range(length)]
    first = first.replace(day=min(first.day, 28))  # every month has a 28th
    months = [first.month - 1 + k * (12 if unit == "year" else 1) for k in range(length)]
    return [first.replace(year=first.year + month // 12, month=month % 12 + 1) for month in months]


class Writer:
    """Draws random days and forms."""

    def __init__(self, seed: int):
        self.random = random.Random(seed).random  # Python guarantees the sequence of `random()` across versions

    def pick(self, options: tuple | list):
        return options[int(self.random() * len(options))]

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def day(self) -> date:
        num_days = (LAST_DAY - FIRST_DAY).days + 1
        return FIRST_DAY + timedelta(days=int(self.random() * num_days))

    def form(self) -> str:
        """A form that has the month in letters."""
        slots = {name: self.pick(options) for name, options in SLOTS.items()}
        if self.chance(0.2):
            return self.pick(YEAR_FIRST_FORMS).format(**slots)
        return self.pick(FRAMES).format(self.pick(FORMS).format(**slots), **slots)

    def digits(self, day: date) -> str:
        """A form of digits that is unambiguous for this day."""
        late = day.day > LARGEST_MONTH and self.chance(0.6)
        return self.pick(LATE_DAY_DIGITS if late else YEAR_FIRST_DIGITS)

    def pair(self) -> tuple[str, date]:
        """A date in free form and the day that it names."""
        day = self.day()
        return write_day(self.digits(day) if self.chance(0.12) else self.form(), day), day

    def unlabeled(self) -> tuple[str, list[str]]:
        """A text for pretraining, and the dates that it consists of."""
        day, kind = self.day(), self.random()
        days = consecutive_days(day, self.pick(("day", "month", "year")), self.pick((1, 2, 3)))
        if kind < 0.5:
            dates, join = [write_day(self.form(), day) for _ in range(2)], self.pick(JOINS)
        elif kind < 0.55:
            dates, join = [write_day(self.digits(day), day) for _ in range(2)], self.pick(JOINS)
        elif kind < 0.7:
            form, join = self.form(), ", "
            dates = [write_day(form, each) for each in days[:2]]
        else:
            dates, join = [write_day(ISO, each) for each in days], ", "
        return join.join(dates), dates


@dataclass(frozen=True)
class Row:
    """A date in free form, and the same date in ISO 8601."""

    source: str
    target: str


@cache
def rows(split: str) -> tuple[Row, ...]:
    """All rows of "train" or "validation", in file order; no source occurs twice, within a split or across both."""
    used = {row.source for row in rows("validation")} if split == "train" else set()
    writer, drawn = Writer(SEEDS[split]), []
    while len(drawn) < NUM_ROWS[split]:
        source, day = writer.pair()
        if source not in used:
            used.add(source)
            drawn.append(Row(source, day.isoformat()))
    return tuple(drawn)


def pretraining_texts(seed: int, count: int) -> Iterator[str]:
    """Yield `count` different texts without targets; none is a validation source or contains one as a date."""
    writer, held_out, used = Writer(seed), {row.source for row in rows("validation")}, set()
    while len(used) < count:
        text, dates = writer.unlabeled()
        if text not in used and held_out.isdisjoint([text, *dates]):
            used.add(text)
            yield text


def write(folder: Path = HERE) -> None:
    """Write train.jsonl and validation.jsonl into `folder`."""
    for split in NUM_ROWS:
        records = [{"source": row.source, "target": row.target} for row in rows(split)]
        lines = [json.dumps(record, sort_keys=True) + "\n" for record in records]
        Path(folder, f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
