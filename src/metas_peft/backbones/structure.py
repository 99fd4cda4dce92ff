"""Finding layers in a model: by its family's table, or by structure where nobody wrote a table.

An unknown type is accepted only where nothing is left to guess: one list of layers in which one table (up to names)
finds all its modules, in every layer, and leaves no parameter over but norms inside a head; and a small twin of the
model, cut by that table, answers as the masked twin does. Anything else is refused with what to add.
"""

import dataclasses
from typing import Any

from torch import nn

from metas_peft.backbones.family import FAMILIES, Family, SubLayer, get, model_types
from metas_peft.core.errors import UnsupportedBackboneError, nearest


def find_stack(model: Any, family: Family) -> str:
    """Path of the list of layers from the model's root.

    Raises:
        UnsupportedBackboneError: There is none, or more than one.
    """
    leaf = f".{family.stack}"
    found = [n for n, m in model.named_modules() if f".{n}".endswith(leaf) and isinstance(m, nn.ModuleList)]
    if len(found) > 1:  # a vision tower beside the text model, say
        found = [n for n in found if all(_tables(layer, family) for layer in get(model, n))]
    if len(found) != 1:
        raise UnsupportedBackboneError(
            f"{type(model).__name__} has {len(found)} lists of layers named {family.stack!r}, expected one. "
            f"Give the text model alone, or correct `stack` in the table of the {family.name} family."
        )
    return found[0]


_TRIED: set[tuple[str, str]] = set()


def family_by_structure(model: Any) -> Family:
    """A family for a model whose type has no table, borrowed from a table that fits it without remainder.

    Raises:
        UnsupportedBackboneError: No table fits, several do, parameters are left over, or the trial fails.
    """
    # The trial lays out a twin of the model, and so comes here again.
    from metas_peft.backbones.trial import try_out

    family, kind = _borrow(model), (model.config.model_type, type(model).__name__)
    if kind not in _TRIED:
        _TRIED.add(kind)
        why = try_out(model)
        if why is not None:
            _TRIED.remove(kind)
            raise _refusal(model, why)
    return family


def _borrow(model: Any) -> Family:
    """The one table that fits a model, under the model's own name."""
    fitting: list[tuple[str, Family]] = []
    leftovers: list[str] = []
    for name in FAMILIES:
        family = FAMILIES[name]
        for path, stack in model.named_modules():
            if not (isinstance(stack, nn.ModuleList) and f".{path}".endswith(f".{family.stack}") and len(stack)):
                continue
            if not all(_tables(layer, family) for layer in stack):
                continue
            left = [n for layer in stack for n in leftover(layer, family, model.config.get_text_config())]
            if left or family.objection(model) is not None:
                leftovers += left
            elif not any(p == path and (f.attention, f.ffn) == (family.attention, family.ffn) for p, f in fitting):
                fitting.append((path, family))
    if len(fitting) == 1:
        kind = model.config.model_type
        # What the modules show is the same; how keys are rotated or clipped they do not show.
        return dataclasses.replace(fitting[0][1], name=kind, model_types=(kind,), fills_cache=False)
    if len(fitting) > 1:
        raise _refusal(model, f"the tables of {', '.join(f.name for _, f in fitting)} all fit it")
    if leftovers:
        raise _refusal(model, f"no table says what to do with {', '.join(sorted(set(leftovers)))}")
    raise _refusal(model, "no table finds its layers")


def _refusal(model: Any, why: str) -> UnsupportedBackboneError:
    kind = model.config.model_type
    return UnsupportedBackboneError(
        f"No table for models of type {kind!r}, and by structure it cannot be done: {why}. Add one file under "
        f"metas_peft/backbones/ that registers a Family with this model type. {nearest(kind, model_types())}"
    )


def leftover(layer: nn.Module, family: Family, config: Any) -> list[str]:
    """Parameters of a layer that a family's tables do not place."""
    tables = _tables(layer, family)
    placed = [p for t in tables for p in (*t.norms, *t.projections.values(), *(part.path for part in t.parts))]
    # A norm over the entries of one head is the same for all heads and stays as it is.
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    inside_head = {n for n, p in layer.named_parameters() if tuple(p.shape) == (head,) and head != config.hidden_size}
    return [
        name for name, _ in layer.named_parameters()
        if name not in inside_head and not any(name.startswith(f"{path}.") for path in placed)
    ]  # fmt: skip


def _tables(layer: nn.Module, family: Family) -> list[SubLayer]:
    """The attention and the feed-forward table that fit a layer; empty unless there are both."""
    attention = [table for table in family.attention if table.is_in(layer)][:1]
    ffn = [table for table in family.ffn if table.is_in(layer)][:1]
    return attention + ffn if attention and ffn else []
