"""MetaS-PEFT: one fine-tuning, five measurements, and a front of smaller models for a device never seen before.

Names are looked up on first use, so that `import metas_peft` costs nothing and does not import torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> where it lives.
_WHERE: dict[str, tuple[str, str]] = {
    "AdaptiveModel": ("metas_peft.serving", "AdaptiveModel"),
    "Front": ("metas_peft.experiment.api", "Front"),
    "GateCallback": ("metas_peft.tuning.gating", "GateCallback"),
    "GateSet": ("metas_peft.gates", "GateSet"),
    "ServedFront": ("metas_peft.serving", "ServedFront"),
    "attach": ("metas_peft.gates", "attach"),
    "expected_subnet": ("metas_peft.gates", "expected_subnet"),
    "load": ("metas_peft.backbones.store", "load"),
    "tune": ("metas_peft.experiment.api", "tune"),
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _WHERE[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
