"""The only place that makes a `LoraConfig`: which modules carry how many ranks at what scale.

PEFT finds the rank of a module by matching keys as regular expressions against the end of its name; a key `layers.1`
then also means layer 11. Here every key is anchored and escaped, and a module without a rank is left out: PEFT knows
no rank 0.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metas_peft.core.errors import SubnetError

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True)
class Adapted:
    """One adapted module.

    Attributes:
        rank: Its rank, at least 1.
        scaling: Factor of the product of B and A.
    """

    rank: int
    scaling: float


def lora_config(
    modules: Mapping[str, Adapted],
    *,
    task_type: Any,
    dropout: float = 0.0,
    modules_to_save: Sequence[str] = (),
    fan_in_fan_out: bool = False,
    base: str | None = None,
) -> "LoraConfig":
    """A LoRA configuration that PEFT reads as meant.

    Args:
        modules: Path of each adapted module from the model's root -> its rank and scale.
        task_type: PEFT's task type.
        dropout: Dropout before A.
        modules_to_save: Names of modules that are trained and stored whole.
        fan_in_fan_out: Whether the maps are stored transposed (Conv1D).
        base: Name or folder of the model that it belongs to.

    Raises:
        SubnetError: No module has a rank.
    """
    from peft import LoraConfig

    kept = {path: adapted for path, adapted in modules.items() if adapted.rank > 0}
    if not kept:
        raise SubnetError("No adapter has a rank left, so there is nothing to store. Export the merged model instead.")
    usual, _ = Counter(kept.values()).most_common(1)[0]
    others = {path: adapted for path, adapted in kept.items() if adapted != usual}
    return LoraConfig(
        task_type=task_type,
        r=usual.rank,
        lora_alpha=_number(usual.rank * usual.scaling),
        lora_dropout=dropout,
        # Whole names: a regular expression would be rewritten by PEFT for models with experts.
        target_modules=list(kept),
        rank_pattern={f"^{re.escape(p)}": a.rank for p, a in others.items()},
        alpha_pattern={f"^{re.escape(p)}": _number(a.rank * a.scaling) for p, a in others.items()},
        modules_to_save=list(modules_to_save) or None,
        fan_in_fan_out=fan_in_fan_out,
        base_model_name_or_path=base,
    )


def _number(value: float) -> Any:
    """Whole numbers as such: PEFT's alpha is declared one, and works with others."""
    return int(value) if float(value).is_integer() else value
