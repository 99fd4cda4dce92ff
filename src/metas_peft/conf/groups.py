"""Named sets of values for one section, chosen as a whole: `model=tiny-decoder`, `dataset=gsm8k`, `training=quick`.

They are Hydra's config groups, one folder per section under `group/`, so that a sweep goes over them as over values. A
choice replaces what the run file says of the same keys; keys on the command line replace what a choice says.
`method`, `device` and `front` need no groups: their values are names already.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from metas_peft.conf import values, yaml12
from metas_peft.core.errors import UnknownNameError, nearest
from metas_peft.core.registry import canonical

_FOLDER = resources.files("metas_peft.conf") / "group"


@cache
def choices() -> Mapping[str, Mapping[str, str]]:
    """Section -> spelling in which names are compared -> name."""
    found = {}
    for section in _FOLDER.iterdir():
        names = sorted(file.name.removesuffix(".yaml") for file in section.iterdir() if file.name.endswith(".yaml"))
        found[section.name] = {canonical(name): name for name in names}
    return found


def resolve(section: str, name: str, where: str) -> str:
    """Name of a choice, however it is spelled.

    Raises:
        UnknownNameError: The section has no such choice.
    """
    known = choices()[section]
    if canonical(name) not in known:
        raise UnknownNameError(
            f"{where}: {section} has no set of values called {name!r}: {nearest(name, known.values())} "
            f"Single keys are set as {section}.KEY=VALUE."
        )
    return known[canonical(name)]


@cache
def read(section: str, name: str) -> Mapping[str, Any]:
    """Checked values of a choice, in the schema's names."""
    with resources.as_file(_FOLDER / section / f"{name}.yaml") as path:
        document = yaml12.read(path, f"{section}={name}")
    return values.normalise({section: document.data}, lambda _: f"{section}={name}")[section]


def register() -> None:
    """Put all choices into Hydra's store."""
    from hydra.core.config_store import ConfigStore

    for section, names in choices().items():
        for name in names.values():
            ConfigStore.instance().store(group=section, name=name, node=dict(read(section, name)))


def paths(override: str) -> frozenset[str]:
    """Dotted paths that a translated choice, `+section=name`, sets; empty for any other override."""
    section, equals, name = override.removeprefix("+").partition("=")
    if not (override.startswith("+") and equals and name in choices().get(section, {}).values()):
        return frozenset()
    return values.leaves({section: read(section, name)})
