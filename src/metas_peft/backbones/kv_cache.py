"""A decoder's cache of keys and values under its two names: `past_key_values`, from transformers 5.24 on `cache`."""

from collections.abc import Mapping
from typing import Any

import transformers
from packaging.version import Version

CACHE = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"


def cache_among(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of an attention module, whichever release calls it; None without one."""
    return arguments.get("cache", arguments.get("past_key_values"))
