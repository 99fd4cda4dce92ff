"""Final answers inside longer ones: the number after `####`, the content of the last `boxed` command of LaTeX."""

import re
from decimal import Decimal, InvalidOperation

_AFTER_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_BOX = re.compile(r"\\(?P<command>boxed|fbox)(?![A-Za-z])\s*(?P<brace>\{?)")
_END_OF_FORMULA = re.compile(r"(?<!\\)\$|\\[)\]]|\n|\Z")
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
    r"""Content of the last `\boxed{...}`, braces inside it included; empty where there is none.

    Without a brace, as in `$\boxed 2$`, the box holds the rest of the formula. `\fbox` counts where nothing is boxed
    with `\boxed`, as in the release of MATH.
    """
    boxes = [(match["command"], _content(text, match)) for match in _BOX.finditer(text)]
    for command in ("boxed", "fbox"):
        closed = [content for name, content in boxes if name == command and content is not None]
        if closed:
            return closed[-1]
    return ""


def _content(text: str, box: re.Match[str]) -> str | None:
    """What a box holds; None where its brace never closes, or where nothing follows it."""
    if not box["brace"]:
        return _END_OF_FORMULA.split(text[box.end() :], maxsplit=1)[0].strip() or None
    depth = 1
    for place in range(box.end(), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[box.end() : place]
    return None


_DROPPED = re.compile(
    r"\\(?:left|right)(?![a-z])|\\[!,;:]|\\ |\\\$|\$|\\?%|\^\s*\{?\\circ\}?|\\(?:mbox|text)\s*\{\s*\}"
)
_WORDS_BEHIND = re.compile(
    r"(?:(?<=[\d}])|(?<=\\pi))\s*\\(?:text|mbox)\s*\{\s*[^{}]*\}(?:\s*\^\s*(?:\d|\{\s*\d\s*\}))?$"
)
_WORDS_ALONE = re.compile(r"\\(?:text|mbox|mathrm|textbf)\s*\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(\d)|\{([^{}]*)\})\s*(?:(\d)|\{([^{}]*)\})")
_SLASHED = re.compile(r"^(-?)(\d+)/(\d+)$")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\w)")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d)\{,\}(?=\d{3})")  # as LaTeX spells them without a space behind
_LEADING_POINT = re.compile(r"(?<!\d)\.(?=\d)")
_TRAILING_ZEROS = re.compile(r"(\d+)\.0+(?!\d)")


def plain_mathematics(text: str) -> str:
    r"""A short answer in LaTeX in one spelling, so that equal answers are equal texts.

    Spacing, `\left` and `\right`, dollars, percent and degree signs go; so do units behind a number; `\dfrac12`,
    `\tfrac{1}{2}` and `1/2` become `\frac{1}{2}`, `\sqrt2` becomes `\sqrt{2}`, `.5` becomes `0.5`, `3.0` becomes `3`,
    `1,000` becomes `1000` where it is the whole answer, since `(1,000)` may be a pair, and `x=5` becomes `5`. Values
    are not computed: `0.5` is not `\frac{1}{2}`.
    """
    text = _THOUSANDS.sub("", text.strip().rstrip("."))
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\$", "")
    text = _WORDS_BEHIND.sub("", _DROPPED.sub("", text).strip())
    text = _WORDS_ALONE.sub(r"\1", text)
    text = _SHORT_FRACTION.sub(lambda m: f"\\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = re.sub(r"\s+", "", text)
    before, equals, after = text.partition("=")
    if equals and len(before) <= 2 and "=" not in after:
        text = after
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    text = _SLASHED.sub(r"\1\\frac{\2}{\3}", text)
    return _TRAILING_ZEROS.sub(r"\1", _LEADING_POINT.sub("0.", text))
