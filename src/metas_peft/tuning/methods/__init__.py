"""Methods: ours and its rivals, one file each."""

from metas_peft.tuning.methods import adalora, apart, described, fixed, priced, static  # noqa: F401 - they register themselves
from metas_peft.tuning.methods.base import METHODS, Method, TunedFront

__all__ = ["METHODS", "Method", "TunedFront"]
