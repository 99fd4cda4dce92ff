"""The surrogate that ships with the package: learnt from simulated and made-up devices, fit for any target."""

import functools
from importlib import resources

from metas_peft.surrogate.model import MetaTrained

FILE = "meta_surrogate_v1.safetensors"


@functools.cache
def shipped() -> MetaTrained:
    """The shipped surrogate; read once per process.

    No device of the catalogue, and no measurement of any device, had a part in it, so that no target can leak: its pool
    is empty. `meta_surrogate_v1.json` beside it tells how it was made and how far off it was.
    """
    with resources.as_file(resources.files("metas_peft.surrogate") / "weights" / FILE) as path:
        return MetaTrained.load(path)
