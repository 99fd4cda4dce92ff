"""Words of the built-in corpus: one lexicon to train on and one to test on, with no content word in common.

Nouns carry a class, and adjectives are listed by class, so that bread is stale and waiters are rude but never
the other way round. Adjectives of the class `any` fit every noun. What the two lexicons share is grammar only.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Noun:
    """Something that can be praised or blamed.

    Attributes:
        text: The noun, with its modifier where it has one.
        kind: Class of adjectives that suit it.
        number: `one`, `many` (plural), or `mass` (no article).
    """

    text: str
    kind: str
    number: Literal["one", "many", "mass"] = "one"


@dataclass(frozen=True)
class Topic:
    """A subject of reviews: names for the whole, and parts of it.

    Attributes:
        wholes: Singular nouns for the thing reviewed.
        parts: Nouns for what one may praise or blame about it.
    """

    wholes: tuple[str, ...]
    parts: tuple[Noun, ...]


@dataclass(frozen=True)
class Lexicon:
    """Everything that fills the slots of a template.

    Pairs are (negative, positive), so that a label indexes them.

    Attributes:
        topics: Subjects of reviews.
        adjectives: Class of noun -> pair of adjective lists.
        verbs: Pair of lists of (base form, past form); the past form is the participle too.
        verdicts: Pair of lists of noun phrases that judge the whole, with their article.
        feelings: Pair of lists of adjectives for the writer's state of mind.
        people: Noun phrases for others whose opinion is reported.
        intensifiers: Adverbs that go with any adjective.
    """

    topics: tuple[Topic, ...]
    adjectives: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    verbs: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
    verdicts: tuple[tuple[str, ...], tuple[str, ...]]
    feelings: tuple[tuple[str, ...], tuple[str, ...]]
    people: tuple[str, ...]
    intensifiers: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    """Comma-separated entries."""
    return tuple(entry.strip() for entry in text.split(","))


def _pair(negative: str, positive: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _words(negative), _words(positive)


def _verbs(text: str) -> tuple[tuple[str, str], ...]:
    """Entries such as `love/loved`."""
    return tuple((base, past) for base, past in (entry.split("/") for entry in _words(text)))


def _topic(wholes: str, **parts: str) -> Topic:
    """Parts by class; a trailing `+` marks a plural, a trailing `~` something without article."""
    numbers: dict[str, Literal["many", "mass"]] = {"+": "many", "~": "mass"}
    nouns = (
        Noun(word.rstrip("+~"), kind, numbers.get(word[-1], "one"))
        for kind, text in parts.items()
        for word in _words(text)
    )
    return Topic(_words(wholes), tuple(nouns))


TRAIN = Lexicon(
    topics=(
        _topic("film, thriller, comedy, documentary", story="plot, script, ending, dialogue, battle scenes+"),
        _topic(
            "restaurant, bistro, diner, pizzeria",
            food="pasta~, bread~, desserts+, vegetables+",
            people="waiters+, cook",
            place="dining room",
        ),
        _topic(
            "hotel, hostel, guest house",
            place="bedroom, lobby, bathroom, corridors+",
            people="receptionist, cleaners+",
            food="breakfast",
        ),
        _topic("phone, tablet, headset, camera", device="screen, battery, buttons+, case, lens"),
        _topic(
            "course, workshop, seminar",
            story="lectures+, handbook, examples+",
            people="teacher, assistants+",
            place="classroom",
        ),
        _topic("clinic, pharmacy, bank", people="doctor, clerks+, manager", place="waiting room, offices+"),
    ),
    adjectives={
        "any": _pair(
            "terrible, awful, dreadful, horrible, poor, bad, lousy, weak, disappointing, unacceptable, hopeless, "
            "annoying, worthless, disgraceful, unimpressive, forgettable, third-rate, deplorable, inadequate",
            "excellent, great, wonderful, fantastic, lovely, superb, good, perfect, impressive, fabulous, "
            "magnificent, remarkable, spectacular, admirable, exceptional, memorable, world-class, sublime, exemplary",
        ),
        "story": _pair(
            "boring, predictable, confusing, tedious, shallow, silly, lifeless, clumsy, repetitive, corny, muddled, "
            "humourless",
            "gripping, funny, clever, moving, original, touching, thrilling, witty, lively, fascinating, intelligent, "
            "profound",
        ),
        "food": _pair(
            "bland, stale, greasy, soggy, burnt, mushy, disgusting, oily, charred",
            "delicious, fresh, tasty, fragrant, wholesome, well seasoned, tender, yummy",
        ),
        "people": _pair(
            "rude, careless, arrogant, lazy, grumpy, impatient, clueless, sloppy, unfriendly, bad-tempered",
            "friendly, helpful, polite, kind, attentive, warm, skilled, generous, respectful, good-natured",
        ),
        "place": _pair(
            "dirty, cramped, noisy, smelly, gloomy, damp, ugly, neglected, stuffy",
            "clean, cosy, bright, quiet, spacious, comfortable, pretty, tidy, well kept",
        ),
        "device": _pair(
            "flimsy, faulty, unreliable, awkward, outdated, clunky, brittle, badly made",
            "sturdy, trustworthy, responsive, handy, robust, modern, accurate, well made",
        ),
    },
    verbs=(
        _verbs("hate/hated, dislike/disliked, regret/regretted, resent/resented, deplore/deplored"),
        _verbs("love/loved, like/liked, enjoy/enjoyed, praise/praised, treasure/treasured"),
    ),
    verdicts=_pair(
        "a disaster, a failure, a mess, a nightmare, a bore, a mistake, a disgrace, a catastrophe, a waste of time",
        "a triumph, a treat, a pleasure, a success, a masterpiece, a dream, a hit, a sensation, a wonder",
    ),
    feelings=_pair(
        "angry, bored, sad, disappointed, unhappy, cheated, depressed, bitter",
        "happy, satisfied, pleased, enthusiastic, glad, inspired, excited, grateful",
    ),
    people=_words(
        "my brother, the critics, a friend, our neighbours, my boss, the newspapers, my wife, the whole town"
    ),
    intensifiers=_words("very, really, truly, so"),
)

TEST = Lexicon(
    topics=(
        _topic("novel, memoir, biography, play", story="prose~, chapters+, narration, closing act, sub-plots+"),
        _topic(
            "bakery, tavern, canteen, snack bar",
            food="cakes+, sandwiches+, stew, salad",
            people="barista, servers+",
            place="terrace",
        ),
        _topic(
            "campsite, resort, cruise ship",
            place="cabin, pool area, grounds+, beach hut",
            people="guide, crew",
            food="buffet",
        ),
        _topic("laptop, printer, coffee maker", device="keyboard, hinges+, motor, charger, speakers+"),
        _topic(
            "concert, musical, exhibition",
            story="opening number, finale, commentary, sketches+",
            people="ushers+, conductor",
            place="auditorium",
        ),
        _topic(
            "gym, barber shop, garage",
            people="trainers+, barber, mechanic",
            place="changing cubicles+, showroom",
            device="equipment~, machines+",
        ),
    ),
    adjectives={
        "any": _pair(
            "atrocious, abysmal, appalling, pathetic, mediocre, unpleasant, shocking, inferior",
            "brilliant, outstanding, marvellous, splendid, delightful, terrific, amazing, extraordinary",
        ),
        "story": _pair(
            "dull, formulaic, incoherent, long-winded, pretentious, trite, monotonous",
            "captivating, hilarious, absorbing, inventive, poignant, insightful, imaginative",
        ),
        "food": _pair(
            "flavourless, rancid, unpalatable, inedible, rubbery, mouldy",
            "mouth-watering, flavourful, scrumptious, appetising, luscious, exquisite",
        ),
        "people": _pair(
            "hostile, dismissive, incompetent, surly, condescending, negligent",
            "courteous, welcoming, thoughtful, cheerful, gracious, knowledgeable",
        ),
        "place": _pair(
            "filthy, shabby, dingy, run-down, draughty, squalid",
            "spotless, charming, inviting, airy, peaceful, elegant",
        ),
        "device": _pair(
            "defective, fragile, substandard, wobbly, cumbersome, useless",
            "dependable, durable, precise, well-built, ingenious, solid",
        ),
    },
    verbs=(
        _verbs("detest/detested, loathe/loathed, despise/despised"),
        _verbs("adore/adored, admire/admired, appreciate/appreciated"),
    ),
    verdicts=_pair(
        "a letdown, a flop, an ordeal, a torment, a fiasco, an embarrassment",
        "a joy, a gem, a winner, a revelation, a blessing, an achievement",
    ),
    feelings=_pair(
        "frustrated, annoyed, dismayed, irritated, furious, miserable",
        "delighted, elated, thankful, ecstatic, overjoyed, fulfilled",
    ),
    people=_words(
        "my sister, the reviewers, a colleague, our cousins, my landlord, the magazines, my husband, "
        "most of the audience"
    ),
    intensifiers=_words("remarkably, decidedly, genuinely, quite"),
)
