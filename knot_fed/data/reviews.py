"""The built-in corpus: synthetic reviews of four domains, written by a seeded grammar that means its ratings.

A review is one to three clauses with a score from -2 to 2. Clauses say it plainly, with intensity, by negation, by
contrast (what follows "but" wins) or by mixed evidence (the mean counts). Domains share a small common vocabulary and
have their own aspects, opinions and mix of ratings, so that a teacher of one domain is a weaker teacher of another.
On the forum people write about all domains; it is the transfer set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from zlib import crc32

import numpy as np

from knot_fed.errors import DataError
from knot_fed.labels import LabelSpace
from knot_fed.types import LabelledTexts, SplitExamples

SIZES = {"train": 900, "val": 150, "test": 400}
TRANSFER_SIZE = 2000
SCORES = (-2, -1, 0, 1, 2)


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain's own words and its mix of ratings, from very negative to very positive."""

    aspects: tuple[str, ...]
    good: tuple[str, ...]
    great: tuple[str, ...]
    bad: tuple[str, ...]
    awful: tuple[str, ...]
    facts: tuple[str, ...]
    mix: tuple[float, float, float, float, float]


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


DOMAINS = {
    "phones": Domain(
        _words("screen, battery, camera, speaker, charger, fingerprint reader, signal, keyboard, case, firmware"),
        _words("responsive, sturdy, sharp, snappy, thin, reliable, bright, compact"),
        _words("flawless, lightning fast, gorgeous, rock solid"),
        _words("laggy, dim, flimsy, glitchy, warm, slow, scratchy, bulky"),
        _words("dead on arrival, unusable, broken within a week, bricked"),
        _words("I bought it in March, it came with a cable, the box weighs a pound, my last one was older"),
        (0.18, 0.2, 0.14, 0.22, 0.26),
    ),
    "restaurants": Domain(
        _words("soup, waiter, dessert, sauce, pasta, table, bread, wine list, service, grill"),
        _words("tasty, fresh, attentive, crisp, warm, generous, fragrant, tender"),
        _words("heavenly, mouth-watering, divine, unforgettable"),
        _words("bland, soggy, salty, stale, rude, greasy, overpriced, cold"),
        _words("inedible, rancid, revolting, a health hazard"),
        _words("we came on a Tuesday, there is parking behind, we ordered for four, it opens at noon"),
        (0.12, 0.16, 0.16, 0.3, 0.26),
    ),
    "hotels": Domain(
        _words("room, bed, lobby, breakfast, pool, staff, bathroom, view, elevator, carpet"),
        _words("clean, quiet, spacious, welcoming, comfy, tidy, central, warm"),
        _words("immaculate, luxurious, breathtaking, five-star in every way"),
        _words("noisy, cramped, musty, dusty, thin, shabby, damp, worn"),
        _words("infested, filthy, squalid, unfit for people"),
        _words("we stayed two nights, check-in is at three, it is near the station, we had the third floor"),
        (0.14, 0.26, 0.24, 0.24, 0.12),
    ),
    "books": Domain(
        _words("plot, prose, ending, narrator, chapter, dialogue, heroine, pacing, translation, argument"),
        _words("engaging, vivid, witty, thoughtful, warm, lucid, tender, sharp"),
        _words("unputdownable, a masterpiece, luminous, brilliant"),
        _words("tedious, predictable, clumsy, thin, slow, preachy, muddled, dated"),
        _words("unreadable, insufferable, atrocious, pure drivel"),
        _words("I read it in May, it has twelve chapters, my sister lent it to me, it is her second novel"),
        (0.16, 0.24, 0.2, 0.24, 0.16),
    ),
}
COMMON = Domain(
    _words("whole thing, price, overall experience"),
    _words("good, nice, pleasing, likeable"),
    _words("excellent, amazing, perfect, superb"),
    _words("bad, poor, disappointing, weak"),
    _words("terrible, horrible, dreadful, abysmal"),
    _words("that is all I can say, I had read about it before, a friend told me about it"),
    (0.2, 0.2, 0.2, 0.2, 0.2),
)
COMMON_SHARE = 0.3
FORUM = "forum"
VERY = _words("very, really, truly, extremely")
SLIGHTLY = _words("a bit, somewhat, rather, fairly")
PLAIN = _words("average, ordinary, acceptable, okay, standard, so-so")
BUT = _words("but, yet, though")


class _Writer:
    """Writes clauses of one domain with one generator."""

    def __init__(self, domain: Domain, generator: np.random.Generator) -> None:
        self._domain = domain
        self._generator = generator

    def review(self, score: int) -> str:
        """Write one review whose clauses amount to the score."""
        clauses = [self._clauses(score)]
        if self._generator.random() < 0.5:
            clauses.insert(int(self._generator.integers(2)), self._from("facts"))
        if abs(score) == 2 and self._generator.random() < 0.4:
            clauses.append(self._clause(score))
        return " ".join(f"{clause[0].upper()}{clause[1:]}." for clause in clauses)

    def _clauses(self, score: int) -> str:
        draw = self._generator.random()
        if abs(score) == 1 and draw < 0.3:
            return f"{self._clause(-score)}, {self._pick(BUT)} {self._clause(2 * score)}"
        if score == 0 and draw < 0.5:
            side = 1 if self._generator.random() < 0.5 else -1
            return f"{self._clause(side)} and {self._clause(-side)}"
        return self._clause(score)

    def _clause(self, score: int) -> str:
        aspect = self._from("aspects")
        draw = self._generator.random()
        good, bad = self._from("good"), self._from("bad")
        if score == 0:
            return f"the {aspect} is " + (f"neither {good} nor {bad}" if draw < 0.3 else self._pick(PLAIN))
        mild, strong = (good, "great") if score > 0 else (bad, "awful")
        opposite = bad if score > 0 else good
        if abs(score) == 2:
            return f"the {aspect} is " + (self._from(strong) if draw < 0.6 else f"{self._pick(VERY)} {mild}")
        if draw < 0.25:
            return f"the {aspect} is not {opposite}" + (" at all" if draw < 0.12 else "")
        return f"the {aspect} is " + (f"{self._pick(SLIGHTLY)} {mild}" if draw < 0.5 else mild)

    def _from(self, field: str) -> str:
        source = COMMON if self._generator.random() < COMMON_SHARE else self._domain
        return self._pick(getattr(source, field))

    def _pick(self, options: tuple[str, ...]) -> str:
        return options[int(self._generator.integers(len(options)))]


def builtin_examples(domain: str, labels: LabelSpace, *, sizes: Mapping[str, int] | None = None) -> SplitExamples:
    """Write a domain's labelled reviews: 900 to train on, 150 to validate, 400 to test; the same on every call.

    `sizes` gives other numbers of reviews by split; they are other reviews.

    Raises
    ------
    DataError
        If there is no such domain, or the label space does not have the five ratings.
    """
    if len(labels) != len(SCORES):
        raise DataError(
            f"builtin:{domain} has {len(SCORES)} ratings, the label space {len(labels)}; use task sentiment"
        )
    return SplitExamples(*(_write(domain, part, size) for part, size in (sizes or SIZES).items()))


def builtin_texts(domain: str) -> tuple[str, ...]:
    """Write reviews without ratings, of one domain or of the forum, for a transfer set; the same on every call.

    Raises
    ------
    DataError
        If there is no such domain.
    """
    return tuple(str(text) for text in _write(domain, "transfer", TRANSFER_SIZE).texts)


def check_domain(domain: str) -> None:
    """Refuse a domain that the built-in corpus does not have.

    Raises
    ------
    DataError
        If there is no such domain.
    """
    if domain not in DOMAINS and domain != FORUM:
        raise DataError(f"builtin:{domain}: no such domain; the built-in corpus has {', '.join([*DOMAINS, FORUM])}")


@cache
def _write(domain: str, part: str, size: int) -> LabelledTexts:
    check_domain(domain)
    generator = np.random.default_rng(crc32(f"{domain}/{part}".encode()))
    about = list(DOMAINS.values()) if domain == FORUM else [DOMAINS[domain]]
    writers = [_Writer(subject, generator) for subject in about]
    mix = np.mean([subject.mix for subject in about], axis=0)
    labels = generator.choice(len(SCORES), size=size, p=mix)
    texts = tuple(writers[generator.integers(len(writers))].review(SCORES[label]) for label in labels)
    return LabelledTexts(texts, labels.astype(np.int64))
