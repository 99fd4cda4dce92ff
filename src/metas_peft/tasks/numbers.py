"""Final answers inside longer ones: the number after `####`, the content of the last `boxed` command of LaTeX."""

import re
from decimal import Decimal, InvalidOperation

_AFTER_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_CALCULATION = re.compile(r"<<[^<>]*>>")


def without_calculations(text: str) -> str:
    """A worked answer without its calculator annotations, `<<48/2=24>>`."""
    return _CALCULATION.sub("", text)


def number_after_hashes(text: str) -> str:
    """The number after the first `####`, in one spelling (`1,000.0` is `1000`); empty where there is none."""
    found = _AFTER_HASHES.search(text)
    number = _NUMBER.search(found.group(1).replace("$", "")) if found else None
    if number is None:
        return ""
    try:
        value = Decimal(number.group().replace(",", "")).normalize()
    except InvalidOperation:
        return ""
    return f"{value:f}" if value else "0"


def last_boxed(text: str) -> str:
    r"""Content of the last `\boxed{...}` or `\fbox{...}`, braces inside it included; empty where there is none."""
    for match in reversed(list(_BOX.finditer(text))):
        depth, start = 1, match.end()
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start:place]
    return ""


_DROPPED = re.compile(
    r"\\(?:left|right)(?![a-z])|\\[!,;:]|\\ |\\\$|\$|\\?%|\^\s*\{?\\circ\}?|\\(?:mbox|text)\s*\{\s*\}"
)
_WORDS_BEHIND = re.compile(r"(?<=[\d}])\s*\\(?:text|mbox)\s*\{\s*[^{}]*\}$")
_WORDS_ALONE = re.compile(r"\\(?:text|mbox|mathrm|textbf)\s*\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(\d)|\{([^{}]*)\})\s*(?:(\d)|\{([^{}]*)\})")
_SLASHED = re.compile(r"^(-?\d+)/(\d+)$")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\w)")
_SEPARATOR = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LEADING_POINT = re.compile(r"(?<!\d)\.(?=\d)")
_TRAILING_ZEROS = re.compile(r"(\d+)\.0+(?!\d)")


def plain_mathematics(text: str) -> str:
    r"""A short answer in LaTeX in one spelling, so that equal answers are equal texts.

    Spacing, `\left` and `\right`, dollars, percent and degree signs go; so do units behind a number; `\dfrac12`,
    `\tfrac{1}{2}` and `1/2` become `\frac{1}{2}`, `\sqrt2` becomes `\sqrt{2}`, `.5` becomes `0.5`, `3.0` becomes `3`,
    `1,000` becomes `1000`, and `x=5` becomes `5`. Values are not computed: `0.5` is not `\frac{1}{2}`.
    """
    text = text.strip().rstrip(".").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\$", "")
    text = _WORDS_BEHIND.sub("", _DROPPED.sub("", text).strip())
    text = _WORDS_ALONE.sub(r"\1", text)
    text = _SHORT_FRACTION.sub(lambda m: f"\\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = re.sub(r"\s+", "", text)
    before, equals, after = text.partition("=")
    if equals and len(before) <= 2 and "=" not in after:
        text = after
    text = _SLASHED.sub(r"\\frac{\1}{\2}", _SEPARATOR.sub("", text))
    return _TRAILING_ZEROS.sub(r"\1", _LEADING_POINT.sub("0.", text))
