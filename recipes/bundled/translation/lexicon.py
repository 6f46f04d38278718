"""The words of both languages of translate_transformer: English, and Orlish, which was invented for this recipe.

A table has a word in each line: its English forms, then its Orlish stem. Orlish nouns have a gender, m or f, that
their form does not show; verbs can have a prefix that moves to the end of a main clause (`prefix+stem`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """A noun in English and Orlish, with its Orlish gender."""

    english: str
    plural: str
    orlish: str
    gender: str


@dataclass(frozen=True)
class Verb:
    """A verb: its English forms, such as pick, picks, picked with "up" behind, and its Orlish stem and prefix."""

    base: str
    third: str
    past: str
    particle: str
    stem: str
    prefix: str = ""


@dataclass(frozen=True)
class Pronoun:
    """A pronoun in both languages; `person` counts from I (0) over he and she (2) to they (5)."""

    english: str
    english_object: str
    person: int
    orlish: str
    orlish_object: str


def nouns(table: str) -> tuple[Noun, ...]:
    """A noun for each line: "knife knives kutil m"."""
    return tuple(Noun(*line.split()) for line in table.strip().splitlines())


def verbs(table: str) -> tuple[Verb, ...]:
    """A verb for each line: "pick picks picked up | op+nem"."""
    return tuple(_verb(line) for line in table.strip().splitlines())


def _verb(line: str) -> Verb:
    english, orlish = (part.split() for part in line.split("|"))
    prefix, _, stem = orlish[0].rpartition("+")
    return Verb(*english[:3], " ".join(english[3:]), stem, prefix)


PERSONS = nouns("""
    woman women venn f
    man men barok m
    girl girls tilm f
    boy boys kest m
    queen queens sorin f
    king kings regul m
    aunt aunts nevar f
    uncle uncles tamos m
    sister sisters liset f
    brother brothers brun m
""")
# English does not say whether a friend or a neighbor is a woman, but Orlish has to.
MALE_FRIENDS = nouns("""
    friend friends amil m
    neighbor neighbors vork m
""")
FEMALE_FRIENDS = nouns("""
    friend friends amilin f
    neighbor neighbors vorkin f
""")
ANIMALS = nouns("""
    cat cats mirk f
    dog dogs hunt m
    horse horses kaval m
    bird birds pital f
    goat goats kaprin f
    mouse mice sorik m
""")
THINGS = nouns("""
    house houses domin m
    door doors portel f
    window windows fenet m
    key keys klav f
    lamp lamps lampir f
    table tables mesal m
    chair chairs sidul f
    book books libat m
    letter letters skriv f
    boat boats navil m
    knife knives kutil m
    cup cups tasmin f
    apple apples pomil f
    coat coats mantul m
    hat hats kapel f
    ring rings anul m
    box boxes kasket f
    basket baskets korvin m
""")
PLACES = nouns("""
    garden gardens gartol m
    kitchen kitchens kuzin f
    market markets merkat m
    bridge bridges pontil f
    river rivers rivun m
    street streets viral f
    tower towers turel m
    forest forests silvan f
""")
PREPOSITIONS = {"in": "in", "near": "proks", "behind": "tras"}

# What one does to things and animals, to persons and animals, to all of them, and without an object.
THING_VERBS = verbs("""
    buy buys bought | kup
    sell sells sold | vend
    lose loses lost | perd
    hide hides hid | kel
    paint paints painted | pint
    clean cleans cleaned | af+put
    open opens opened | ab+lun
    close closes closed | tu+lun
    pick picks picked up | op+nem
    take takes took away | veg+nem
    bring brings brought back | ret+port
""")
PERSON_VERBS = verbs("""
    love loves loved | am
    greet greets greeted | salud
    follow follows followed | ant+sek
    help helps helped | jud
""")
SEEING_VERBS = verbs("""
    see sees saw | vid
    find finds found | trov
""")
VERBS_ALONE = verbs("""
    sleep sleeps slept | dorm
    sing sings sang | kant
    wait waits waited | vart
    dance dances danced | bal
    wake wakes woke up | op+vak
    arrive arrives arrived | an+kom
    disappear disappears disappeared | veg+kur
""")
THAT_VERBS = verbs("""
    think thinks thought | dum
    know knows knew | sav
    believe believes believed | kred
    say says said | dik
""")
# Whole phrases that mean something else than their words: the English object and the Orlish one.
IDIOMS = tuple(
    (_verb(verb), english, orlish)
    for verb, english, orlish in (
        ("spill spills spilled | vers", "the beans", "la supin"),  # pours the soup
        ("see sees saw | mang", "red", "fok"),  # eats fire
        ("break breaks broke | ab+lun", "the ice", "la portel"),  # opens the door
        ("burn burns burned | bib", "the midnight oil", "la noktir"),  # drinks the night
        ("lose loses lost | af+kad", "heart", "in el rivun"),  # falls into the river
        ("take takes took | port", "the cake", "la kapel blana"),  # wears the white hat
    )
)

ADJECTIVES = {
    "red": "ros", "old": "vet", "new": "nov", "small": "pik", "big": "gran", "white": "blan", "black": "ner",
    "green": "verd", "heavy": "pesan", "beautiful": "belin",
}  # fmt: skip
PERSON_ADJECTIVES = ("old", "small", "big", "beautiful")
# By gender and number: masculine, feminine, and both in the plural.
DETERMINERS = {
    "the": ("el", "la", "eloi", "lai"),
    "a": ("un", "una", "", ""),
    "my": ("mo", "ma", "moi", "mai"),
    "our": ("noso", "nosa", "nosoi", "nosai"),
}
ADJECTIVE_ENDINGS = ("o", "a", "oi", "ai")
RELATIVES = ("kel", "kela", "keloi", "kelai")
PLURAL_ENDING = "en"
# It and them, for a noun that was named.
NAMED_AGAIN = ("lon", "lan", "len", "len")

PERSON_ENDINGS = ("em", "es", "et", "imo", "ite", "un")
AUXILIARIES = {"past": "h", "future": "vol"}
PRONOUNS = (
    Pronoun("I", "me", 0, "io", "men"),
    Pronoun("he", "him", 2, "ilo", "lon"),
    Pronoun("she", "her", 2, "ila", "lan"),
    Pronoun("we", "us", 3, "noi", "non"),
    Pronoun("they", "them", 5, "ilen", "len"),
)
# English does not say whether you are one or several, but Orlish has to.
YOU = Pronoun("you", "you", 1, "tu", "ten")
YOU_ALL = Pronoun("you", "you", 4, "voi", "von")

TIMES = {
    "past": {"yesterday": "gestu", "last week": "pasu vek"},
    "present": {"today": "hoi", "every day": "kadu dien"},
    "future": {"tomorrow": "moru", "next week": "venu vek"},
}
CONJUNCTIONS = {"because": "dak", "when": "kand", "although": "malgu"}
THAT = "ke"
NOT = ("ni", "pak")  # before the finite verb, and at the end

ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
        "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORLISH_ONES = ("un", "du", "tar", "kve", "pim", "ses", "hef", "okt", "nav")


def english_number(number: int) -> str:
    """2 to 99 in words: 23 is "twenty-three"."""
    if number < 20:
        return ONES[number - 1]
    tens, ones = divmod(number, 10)
    return "-".join([TENS[tens - 2], *ONES[ones - 1 : ones]]) if ones else TENS[tens - 2]


def orlish_number(number: int) -> str:
    """2 to 99 in words, the ones first: 23 is "tar-e-dudek", three and two-ten."""
    tens, ones = divmod(number, 10)
    ten = ("" if tens == 1 else ORLISH_ONES[tens - 1]) + "dek"
    if not tens:
        return ORLISH_ONES[ones - 1]
    return f"{ORLISH_ONES[ones - 1]}-e-{ten}" if ones else ten
