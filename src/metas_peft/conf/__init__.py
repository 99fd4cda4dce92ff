"""Run files: the schema, its defaults, and how a file and overrides become one frozen configuration."""

from metas_peft.conf.folders import writable_or
from metas_peft.conf.methods import METHODS, CostTerm, Method, Shape
from metas_peft.conf.schema import RunConfig
from metas_peft.conf.values import dump, to_dict

__all__ = ["METHODS", "CostTerm", "Method", "RunConfig", "Shape", "dump", "to_dict", "writable_or"]
