"""How close a written answer is to a reference: exact match and ROUGE-L, in a few lines of our own.

The usual package for ROUGE had its last release in 2022 and takes three more packages with it; the longest common
subsequence is five lines.
"""

import re
import string
from collections.abc import Sequence

_WORDS = re.compile(r"\w+")
# A minus before a number and a point within one are not punctuation.
_PUNCTUATION = re.compile(rf"(?!(?<!\w)-\.?\d)(?!(?<=\d)\.\d)(?!(?<!\w)\.\d)[{re.escape(string.punctuation)}]")


def plain(text: str) -> str:
    """A text without capitals, superfluous white space, and ASCII punctuation but that of numbers (`-1.5`).

    A text of nothing but punctuation stays as it is.
    """
    words = " ".join(_PUNCTUATION.sub("", text.lower()).split())
    return words or " ".join(text.split())


def exact_match(text: str, references: Sequence[str]) -> float:
    """1 if a text is one of the references, capitals and punctuation apart."""
    return float(any(plain(text) == plain(reference) for reference in references))


def rouge_l(text: str, references: Sequence[str]) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, with the best reference; in [0, 1].

    Words are runs of letters and digits, without capitals and without stemming.
    """
    return max(_f1(_words(text), _words(reference)) for reference in references)


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def _f1(written: list[str], reference: list[str]) -> float:
    common = longest_common_subsequence(written, reference)
    return 2 * common / (len(written) + len(reference)) if common else 0.0


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, all rows of the usual table at once as the bits of one number.

    Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | (1 << i)
    everything = (1 << len(first)) - 1
    row = everything
    for word in second:
        matching = row & places.get(word, 0)
        row = ((row + matching) | (row - matching)) & everything
    return len(first) - row.bit_count()
