"""Turning the largest member into any other by a list of assignments, made once and carried out in microseconds.

A member differs from the largest in the views that its maps use, in a few numbers (widths, counts of heads, places in
the cache), in what stands where a sub-layer is gone, and in which layers are run. Modules of its own would say the same
and take two kilobytes each, which for a small model is more than two percent of the weights.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from metas_peft.backbones.cutting import text_configs
from metas_peft.backbones.family import get
from metas_peft.core.subnet import Subnet
from metas_peft.serving.sharing import Counterparts, places

PLAIN = (int, float, str, tuple, type(None))
CONTENTS = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Setting:
    """One difference from the largest member.

    Attributes:
        path: Path of a module of the largest member.
        table: Which of the module's tables the entry is in; empty for an attribute.
        name: Name of the entry.
        value: Its value.
    """

    path: str
    table: str
    name: str
    value: Any


@dataclass(frozen=True)
class Plan:
    """All differences of a member from the largest.

    Attributes:
        settings: Of modules.
        configs: Entries of each configuration object that models read while they run.
        stack: Path of the list of layers.
        layers: Places of the largest member's layers that are run.
    """

    settings: tuple[Setting, ...]
    configs: tuple[dict[str, Any], ...]
    stack: str
    layers: tuple[int, ...]


def plan_of(member: Any, subnet: Subnet, base: Any, base_subnet: Subnet) -> Plan:
    """What makes the largest member another one.

    Args:
        member: Compact model that shares the largest one's tensors; its modules are not needed afterwards.
        subnet: What it keeps.
        base: The largest member's compact model.
        base_subnet: What that keeps.
    """
    there = Counterparts(subnet, base, base_subnet)
    pairs = zip(text_configs(member), text_configs(base), strict=True)
    configs = tuple({n: v for n, v in _entries(a) if vars(b).get(n) != v} for a, b in pairs)
    kept, full = places(subnet), places(base_subnet)
    settings = tuple(_differences(member, base, "", "", there))
    return Plan(settings, configs, there.stack, tuple(full[layer] for layer in kept))


def bind(model: Any, plans: Sequence[Plan]) -> list[Callable[[], None]]:
    """Switches of a model, one per plan; each undoes what the others did.

    Args:
        model: The largest member's model, or a copy of it, as it is by itself.
        plans: Members; an empty list of differences is the largest member itself.
    """
    lists = [_entries_of(model, plan) for plan in plans]
    usual = {(id(table), name): (table, name, table.get(name)) for entries in lists for table, name, _ in entries}
    return [_switch(usual, entries) for entries in lists]


Entry = tuple[dict[str, Any], str, Any]


def _switch(usual: dict[tuple[int, str], Entry], entries: Sequence[Entry]) -> Callable[[], None]:
    mine = tuple({**usual, **{(id(table), name): (table, name, value) for table, name, value in entries}}.values())

    def switch() -> None:
        for table, name, value in mine:
            table[name] = value

    return switch


def _entries_of(model: Any, plan: Plan) -> list[Entry]:
    modules = dict(model.named_modules())
    layers = list(get(model, plan.stack))
    shown = {str(place): layers[there] for place, there in enumerate(plan.layers)}
    entries: list[Entry] = [(vars(modules[plan.stack]), "_modules", shown)]
    for s in plan.settings:
        owner = vars(modules[s.path])
        entries.append((owner[s.table] if s.table else owner, s.name, s.value))
    for config, values in zip(text_configs(model), plan.configs, strict=True):
        entries += [(vars(config), name, value) for name, value in values.items()]
    return entries


def _differences(module: Any, twin: Any, path: str, there: str, known: Counterparts) -> Iterator[Setting]:
    """Settings that make a module of the largest member (at `there`) one of the member (at `path`)."""
    for name, value in _entries(module):
        if vars(twin).get(name) != value:
            yield Setting(there, "", name, value)
    for table in CONTENTS[:2]:
        for name, tensor in getattr(module, table).items():
            if tensor is not getattr(twin, table)[name]:
                yield Setting(there, table, name, tensor)
    for name, child in module.named_children():
        inner = f"{path}.{name}".lstrip(".")
        beyond = known.path(inner)
        other = known.of(inner)
        if other is not None and _has_same_parts(child, other):
            yield from _differences(child, other, inner, beyond, known)
        else:
            yield Setting(there, "_modules", name, child)


def _has_same_parts(a: nn.Module, b: nn.Module) -> bool:
    is_list = isinstance(a, nn.ModuleList) and isinstance(b, nn.ModuleList)  # of layers, of which some are gone
    return type(a) is type(b) and (is_list or all(list(getattr(a, t)) == list(getattr(b, t)) for t in CONTENTS))


def _entries(owner: Any) -> Iterator[tuple[str, Any]]:
    """Plain attributes; of configurations lists too."""
    kinds = PLAIN if isinstance(owner, nn.Module) else (*PLAIN, list)
    return ((name, value) for name, value in vars(owner).items() if isinstance(value, kinds))
