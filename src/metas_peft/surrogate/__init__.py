"""From records of some devices and five measurements on another to a differentiable cost model of that one."""

from metas_peft.surrogate.assess import Errors, Scope, percent_errors, summarise
from metas_peft.surrogate.calibrate import ScaleShift, fit_scale_shift
from metas_peft.surrogate.design import design
from metas_peft.surrogate.episodes import MetaTraining
from metas_peft.surrogate.fitted import CalibrationPoint, Surrogate
from metas_peft.surrogate.model import MetaTrained
from metas_peft.surrogate.physics import project
from metas_peft.surrogate.pool import MOST_RECORDS, simulate_pool
from metas_peft.surrogate.shipped import shipped
from metas_peft.surrogate.training import train

__all__ = [
    "MOST_RECORDS",
    "CalibrationPoint",
    "Errors",
    "MetaTrained",
    "MetaTraining",
    "ScaleShift",
    "Scope",
    "Surrogate",
    "design",
    "fit_scale_shift",
    "percent_errors",
    "project",
    "shipped",
    "simulate_pool",
    "summarise",
    "train",
]
