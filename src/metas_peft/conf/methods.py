"""Methods and baselines by name: what carries gates, what prices them, what the target is asked.

The table is section 7 of the method's reference; running a method is the experiment's business.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from metas_peft.core.registry import Registry

AS_DESCRIBED = "as described"


class CostTerm(StrEnum):
    """What tells a method the cost of a choice while it trains."""

    SURROGATE = "surrogate"  # energy, latency and power predicted for the target
    TARGET = "target"  # a differentiable energy model fitted to samples of the target itself
    MACS = "macs"  # multiply-adds as a proxy
    NONE = "none"


class Shape(StrEnum):
    """How a method arrives at smaller models."""

    GATED = "gated"  # learns what to remove
    FIXED = "fixed"  # removes layers or widths by a rule, then fine-tunes
    DENSE = "dense"  # removes nothing


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: Canonical name.
        label: Name in reports; methods known only from a description are called `...-style`.
        shape: How smaller models come about.
        gates: Granularities, of which a run file may choose others.
        cost_term: What prices a choice.
        target_measurements: Measurements on the target before evaluation, unless a run file says otherwise.
        trains_all: Full fine-tuning instead of adapters.
        changes: For an ablation: what is set, by dotted path, to take one part out.
        base: For an ablation: the method that is run with these changes.
        setting: `equal treatment` with ours, or `as described` by the method's source.
        kin: Another method, of which this is a variant of its own.
        follows_front: Whether `front` says how what goes is found; otherwise it is always the nested path.
    """

    name: str
    label: str
    shape: Shape
    gates: tuple[str, ...] = ()
    cost_term: CostTerm = CostTerm.NONE
    target_measurements: int = 0
    trains_all: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    setting: str = "equal treatment"
    kin: str | None = None
    follows_front: bool = True

    @property
    def runs_as(self) -> str:
        """Name of the method that does the work."""
        return self.base or self.name

    @property
    def settings_of(self) -> str:
        """Name of the method whose settings it shares in a study."""
        return self.base or self.kin or self.name


METHODS: Registry[Method] = Registry("method")


def obstacle(main: Method, rival: Method) -> str:
    """Why a method cannot be a baseline within another one's run; empty if it can.

    All methods of a run start from one fine-tuned dense model, and one surrogate at most is calibrated.
    """
    if rival.name == main.name:
        return ""
    if rival.trains_all != main.trains_all:
        kinds = {True: "all weights", False: "adapters"}
        return f"trains {kinds[rival.trains_all]}, while this run's dense model is trained by {kinds[main.trains_all]}"
    if rival.cost_term is CostTerm.SURROGATE and (rival.changes or main.cost_term is not CostTerm.SURROGATE):
        return "needs a surrogate of its own"
    return ""


def _add(method: Method, *aliases: str) -> None:
    METHODS.add(method.name, method, aliases)


_ALL = ("layer", "head", "rank")
OURS = "MetaS-PEFT"

_add(Method(OURS, OURS, Shape.GATED, _ALL, CostTerm.SURROGATE, 5), "proposed", "metas")
_add(Method("EChorda", "EChorda-style", Shape.GATED, _ALL, CostTerm.TARGET, 200), "comparative-1", "EChorda-style")
_add(
    Method("DiGASE", "DiGASE-style", Shape.GATED, ("layer", "rank"), CostTerm.MACS),
    "comparative-2",
    "DiGASE-style",
)
_add(Method("static-lora", "static LoRA", Shape.DENSE), "comparative-3", "lora")
_add(
    Method("baseline", "full fine-tuning", Shape.DENSE, trains_all=True),
    "full-fine-tuning",
    "full-finetuning",
    "full",
)
_add(Method("AdaLoRA", "AdaLoRA", Shape.DENSE), "ada-lora")
_add(Method("drop-top", "top layers dropped", Shape.FIXED))
_add(Method("drop-alternate", "alternate layers dropped", Shape.FIXED))
_add(Method("uniform-width", "uniform width", Shape.FIXED), "uniform")


def _as_described(name: str) -> None:
    row = METHODS[name]
    _add(dataclasses.replace(row, name=f"{name}-as-described", setting=AS_DESCRIBED, kin=name))


for _name in (OURS, "EChorda", "DiGASE", "drop-top", "drop-alternate"):
    _as_described(_name)


_add(
    Method(
        f"{OURS}-apart", f"{OURS}, each member trained alone", Shape.GATED, _ALL, CostTerm.SURROGATE, 5, kin=OURS,
        follows_front=False,
    )
)  # fmt: skip


def _ablation(part: str, label: str, changes: Mapping[str, Any]) -> None:
    gates = tuple(changes.get("model.gating.granularity", _ALL))
    samples = changes.get("surrogate.calibration_samples", 5)
    _add(
        Method(
            f"ablation-{part}",
            f"{OURS} {label}",
            Shape.GATED,
            gates,
            CostTerm.SURROGATE,
            samples,
            changes=changes,
            base=OURS,
        )
    )


# Both are parts of the source's network, which is therefore the predictor of these two.
_ablation("no-mixup", "without mixup", {"surrogate.mixup": False, "surrogate.kind": "reference"})
_ablation("no-meta", "without meta-learning", {"surrogate.meta_learning": False, "surrogate.kind": "reference"})
_ablation("no-calibration", "without calibration", {"surrogate.calibration_samples": 0})
_ablation(
    "no-distillation",
    "without distillation",
    {
        "training.distillation.cross_entropy": 1.0,
        "training.distillation.kl": 0.0,
        "training.distillation.hidden": 0.0,
    },
)
for _part in _ALL:
    _ablation(f"{_part}-only", f"with {_part} gates only", {"model.gating.granularity": [_part], "front": "gates"})
