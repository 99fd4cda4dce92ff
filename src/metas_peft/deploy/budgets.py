"""Budgets as people write them: `latency_ms=80 energy_j=0.05 peak_power_w=3`."""

import math
from collections.abc import Mapping, Sequence

from metas_peft.core.cost import METRIC_UNITS, METRICS
from metas_peft.core.errors import UsageError, nearest

ALIASES = {"power_w": "peak_power_w"}  # as in run files


def parse_budgets(texts: Sequence[str]) -> dict[str, float]:
    """Upper limits by metric name, in the order of `METRICS`.

    Args:
        texts: Such as `latency_ms=80`; one may hold several, with commas or blanks between them.

    Raises:
        UsageError: An empty text, no equals sign, an unknown name, a name twice, or a limit that is no positive number.
    """
    found: dict[str, float] = {}
    if any(not given.replace(",", " ").split() for given in texts):
        raise UsageError("--budget is empty: a name and a number were expected, such as latency_ms=80.")
    for text in (part for given in texts for part in given.replace(",", " ").split()):
        name, equals, value = text.partition("=")
        name = ALIASES.get(name, name)
        if not equals:
            raise UsageError(f"--budget {text}: a name and a number were expected, such as latency_ms=80.")
        if name not in METRICS:
            raise UsageError(f"--budget {text}: there is no budget {name!r}; {nearest(name, [*METRICS, *ALIASES])}")
        if name in found:
            raise UsageError(f"--budget names {name} twice. Leave one of them out.")
        try:
            limit = float(value)
        except ValueError:
            raise UsageError(f"--budget {text}: {value!r} is no number. Give {METRIC_UNITS[name]}.") from None
        if not (math.isfinite(limit) and limit > 0):
            raise UsageError(f"--budget {text}: a positive number of {METRIC_UNITS[name]} was expected.")
        found[name] = limit
    return {metric: found[metric] for metric in METRICS if metric in found}


def in_words(budgets: Mapping[str, float]) -> str:
    """Such as `latency_ms <= 80 and energy_j <= 0.05`."""
    return " and ".join(f"{name} <= {limit:.4g}" for name, limit in budgets.items())
