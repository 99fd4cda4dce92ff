"""Named sets of values for one section, chosen as a whole: `model=tiny-decoder`, `dataset=gsm8k`, `training=quick`.

They are Hydra's config groups, one folder per section under `group/`, so that a sweep goes over them as over values. A
choice replaces what the run file says of the same keys, a choice for a part of a section (`model.peft=small`) what one
for the whole says; keys on the command line replace what a choice says.
`method`, `device` and `front` need no groups: their values are names already.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from metas_peft.conf import values, yaml12
from metas_peft.core.errors import UnknownNameError, nearest
from metas_peft.core.registry import canonical

_FOLDER = resources.files("metas_peft.conf") / "group"


@cache
def choices() -> Mapping[str, Mapping[str, str]]:
    """Section -> spelling in which names are compared -> name; sections in the order of the alphabet."""
    return dict(sorted(_choices(_FOLDER, ()).items()))


def _choices(folder: Traversable, section: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The choices of a folder and of the folders in it, which belong to the sections of this section."""
    found: dict[str, dict[str, str]] = {}
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    if names := [entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")]:
        found[".".join(section)] = {canonical(name): name for name in names}
    for entry in entries:
        if entry.is_dir():
            found |= _choices(entry, (*section, entry.name))
    return found


def hydra_name(section: str) -> str:
    """A section as Hydra names its group: `model/peft` is that of `model.peft`."""
    return section.replace(".", "/")


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
    with resources.as_file(_FOLDER.joinpath(*section.split("."), f"{name}.yaml")) as path:
        document = yaml12.read(path, f"{section}={name}")
    checked = values.normalise(_at(section, document.data), lambda _: f"{section}={name}")
    for part in section.split("."):
        checked = checked[part]
    return checked


def _at(section: str, data: Any) -> dict[str, Any]:
    """Values of a section as a mapping from the top."""
    for part in reversed(section.split(".")):
        data = {part: data}
    return data


def register() -> None:
    """Put all choices into Hydra's store."""
    from hydra.core.config_store import ConfigStore

    for section, names in choices().items():
        for name in names.values():
            ConfigStore.instance().store(group=hydra_name(section), name=name, node=dict(read(section, name)))


def paths(override: str) -> frozenset[str]:
    """Dotted paths that a translated choice, `+section=name`, sets; empty for any other override."""
    group, equals, name = override.removeprefix("+").partition("=")
    section = group.replace("/", ".")
    if not (override.startswith("+") and equals and name in choices().get(section, {}).values()):
        return frozenset()
    return values.leaves(_at(section, read(section, name)))
