"""Numbers for people: formatting, display units, origins, and what an interval says."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metas_peft.core.cost import METRIC_UNITS, METRICS
from metas_peft.report.collect import Point, Ratio

NOTHING = "–"
METRIC_SPELLINGS = {"rouge_l": "ROUGE-L", "inverse_perplexity": "inverse perplexity per token"}
METRIC_LABELS = {"energy_j": "Energy", "latency_ms": "Latency", "peak_power_w": "Peak power"}
ORIGIN_MEANING = {
    "measured": "read by a meter or a clock on the device",
    "imported": "from a file of somebody else's meter",
    "modelled": "computed from a power model, for instance utilisation × power range",
    "simulated": "computed by a device simulator",
    "predicted": "said by the surrogate before the device was asked",
    "evaluated": "counted on the evaluation examples, on this computer",
    "counted": "counted on paper: FLOPs, bytes, kept units",
    "recorded": "noted by this computer while the run went on: times, numbers of calls",
}
# A mark beside each word, so that colour is never alone in telling origins apart.
ORIGIN_MARKS = {
    "measured": "●",
    "imported": "◆",
    "modelled": "▲",
    "simulated": "○",
    "predicted": "◇",
    "evaluated": "■",
    "counted": "□",
    "recorded": "▪",
}


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent, thousands apart."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    size = abs(value)
    decimals = max(0, digits - len(str(int(size)))) if size >= 1 else digits + _leading_zeros(size)
    return f"{value:,.{decimals}f}".replace(",", "\u202f").replace("-", "−")


def _leading_zeros(value: float) -> int:
    """Zeros right behind the decimal point of a number below 1."""
    zeros = 0
    while value < 0.1 and zeros < 9:
        value *= 10
        zeros += 1
    return zeros


def percent(value: float | None, decimals: int = 1) -> str:
    """A fraction as per cent."""
    return NOTHING if value is None else f"{100 * value:.{decimals}f}\u202f%".replace("-", "−")


def metric_name(quality_metric: str) -> str:
    """A quality metric as people write it, such as `exact match` or `ROUGE-L`."""
    return METRIC_SPELLINGS.get(quality_metric, quality_metric.replace("_", " "))


def metric_title(quality_metric: str) -> str:
    """The same at the head of a column or an axis."""
    name = metric_name(quality_metric)
    return name[:1].upper() + name[1:]


def is_share(quality_metric: str) -> bool:
    """Whether a quality is a share of examples, so that per cent and a binomial error make sense."""
    return quality_metric.lower().replace("_", " ") in ("accuracy", "exact match")


def quality_text(value: float | None, quality_metric: str) -> str:
    """A quality as its readers know it: accuracy in per cent, correlations as they are."""
    if value is None:
        return NOTHING
    return percent(value) if is_share(quality_metric) else f"{value:.3f}".replace("-", "−")


def whole_number(value: float | None) -> str:
    """A count, thousands apart."""
    return NOTHING if value is None else f"{value:,.0f}".replace(",", "\u202f")


def seconds_text(seconds: float | None) -> str:
    """A duration as `38 s` or `6 min 05 s`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{significant(seconds, 2)}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\u202fmin {rest:02d}\u202fs"


def bytes_text(size: float | None) -> str:
    """A size in MB or kB (powers of ten)."""
    if size is None:
        return NOTHING
    unit, factor = ("MB", 1e6) if size >= 1e6 else ("kB", 1e3) if size >= 1e3 else ("bytes", 1)
    return f"{significant(size / factor)}\u202f{unit}"


@dataclass(frozen=True)
class Unit:
    """Display unit of a metric: values in J, ms or W are multiplied by `factor`."""

    metric: str
    factor: float
    symbol: str

    @property
    def label(self) -> str:
        """Such as `Energy`."""
        return METRIC_LABELS[self.metric]

    def text(self, value: float | None) -> str:
        """Three significant digits, without the symbol."""
        return significant(None if value is None else value * self.factor)


def units_for(points: Iterable[Point]) -> dict[str, Unit]:
    """Display units: J and W, or mJ and mW where all values are below 0.1."""
    points = list(points)
    units: dict[str, Unit] = {}
    for metric in METRICS:
        values = [v for p in points if (v := getattr(p.cost, metric)) is not None]
        small = metric != "latency_ms" and bool(values) and max(values) < 0.1
        symbol = METRIC_UNITS[metric]
        units[metric] = Unit(metric, 1e3 if small else 1.0, f"m{symbol}" if small else symbol)
    return units


def origins_of(points: Iterable[Point], metric: str) -> tuple[str, ...]:
    """Distinct origins of a metric over points that have a value, in order of appearance."""
    seen = dict.fromkeys(
        str(getattr(p.origin, metric) or "origin not noted") for p in points if getattr(p.cost, metric) is not None
    )
    return tuple(seen)


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def verdict(ratio: Ratio | None) -> str:
    """What an interval of a ratio of volumes says."""
    if ratio is None:
        return "no interval"
    if ratio.ratio is None:
        return "theirs is 0"
    if ratio.low is None:
        return "no interval"
    if ratio.low > 1:
        return "ours is larger"
    if ratio.high is not None and ratio.high < 1:
        return "ours is smaller"
    return "no difference shown"
