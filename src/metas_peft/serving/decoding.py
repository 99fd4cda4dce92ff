"""Decoding in which every step may be another member's, with one cache of keys and values.

The rule. Each token passes the layers that its member keeps. In every layer whose attention the largest of the members
keeps, the token leaves keys and values of all of that member's groups, computed from the hidden state that enters the
layer: a layer that the token's member skips is filled from the passing hidden state, and so are the groups that it has
not. A token attends with the heads that its member keeps, over all tokens before it. So the cache never lacks anything,
whichever members are chosen, and what a token leaves in it depends on its own member alone.

What filling costs is counted: `Switching.fill_flops`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from metas_peft.backbones.family import get, put
from metas_peft.backbones.kv_cache import CACHE, cache_among
from metas_peft.backbones.layout import Layout
from metas_peft.backbones.llama import ATTENTION
from metas_peft.core.errors import SubnetError, UnsupportedBackboneError
from metas_peft.core.subnet import Subnet
from metas_peft.serving.front import ServedFront, ServedMember
from metas_peft.serving.sharing import places


class FrontCache(DynamicCache):
    """Keys and values of all groups; a pass is shown those that its member keeps.

    Args:
        config: Config of the largest member.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.shown: Sequence[int | None] = [None] * config.get_text_config().num_hidden_layers

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, G, T, E) for all groups; gives keys and values of the groups shown, of all tokens so far."""
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return keys[:, : self.shown[layer_idx]], values[:, : self.shown[layer_idx]]


class FillingAttention(nn.Module):
    """A skipped attention sub-layer that leaves keys and values of the passing hidden state in the cache.

    Args:
        attention: The largest member's attention, whose maps are used.
        rest: What the skipping member has in its place; None where it adds nothing.
    """

    def __init__(self, attention: Any, rest: nn.Module | None) -> None:
        super().__init__()
        parts = dict(attention.named_children())
        self.layer_idx, self.head_dim = attention.layer_idx, attention.head_dim
        self.k_proj, self.v_proj = attention.k_proj, attention.v_proj
        self.k_norm = parts.get("k_norm", nn.Identity())
        self.rest = rest

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """(B, T, D) -> what stands in the attention's place, and no attention weights."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        keys = self.k_norm(self.k_proj(hidden_states).view(shape)).transpose(1, 2)
        values = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        cache_among(kwargs).update(_rotated(keys, *position_embeddings), values, self.layer_idx)
        return (torch.zeros_like(hidden_states), None) if self.rest is None else self.rest(hidden_states)


def _rotated(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on keys (B, G, T, E), given (B, T, E) each."""
    first, second = keys.chunk(2, dim=-1)
    return keys * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]


class Switching:
    """Members of a served front that share one cache.

    Args:
        front: The front.
        members: Those of it that may be chosen; one of them must contain all others.

    Raises:
        SubnetError: None of them contains all others.
        UnsupportedBackboneError: The family's keys and values cannot be filled, or members have weights of their own.
    """

    def __init__(self, front: ServedFront, members: Sequence[ServedMember]) -> None:
        largest = _largest(members)
        base = front.module(largest.name)
        if not base.can_generate():
            raise UnsupportedBackboneError(
                f"A {type(base).__name__} generates no text. Decoding takes a causal language model."
            )
        layout = Layout(base)
        if len(members) > 1 and not layout.family.fills_cache:
            raise UnsupportedBackboneError(
                f"Members of the {layout.family.name} family cannot take turns in one cache: its keys and values do "
                "not come from maps of their own, or it is not known how it rotates them. Name one member for the "
                "whole text."
            )
        # Of the front's largest member: what two of them have of their own may bear the same names.
        differing = [m.name for m in members if m.own] if len(members) > 1 else []
        if differing:
            raise UnsupportedBackboneError(
                f"{', '.join(differing)} has weights of its own (refined apart from the front), with which the other "
                "members' keys and values do not go. Name one member for the whole text."
            )
        self._config, whole = base.config, _key_value_weights(base)
        self._views: dict[str, tuple[Any, list[int | None]]] = {}
        self._fill_flops: dict[str, int] = {}
        for member in members:
            alone = front.module(member.name)
            view = _view(front.module(largest.name), largest.subnet, alone, member.subnet)
            self._views[member.key] = view, _shown(member.subnet, largest.subnet, layout)
            self._fill_flops[member.key] = 2 * (whole - _key_value_weights(alone))

    def cache(self) -> FrontCache:
        """An empty cache."""
        return FrontCache(self._config)

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor, cache: FrontCache, member: ServedMember) -> torch.Tensor:
        """Pass tokens through one member, behind what is in the cache.

        Args:
            tokens: Ids (1, T).
            cache: Changed in place.
            member: One of those that were given.

        Returns:
            Logits of the next token, (V,), float32.
        """
        view, cache.shown = self._views[member.key]
        output = view(input_ids=tokens, use_cache=True, logits_to_keep=1, **{CACHE: cache})
        return output.logits[0, -1].float()

    def fill_flops(self, member: ServedMember) -> int:
        """FLOPs per token for keys and values that the member itself does not look at."""
        return self._fill_flops[member.key]


def _largest(members: Sequence[ServedMember]) -> ServedMember:
    for candidate in members:
        if all(_contains(candidate.subnet, m.subnet) for m in members):
            return candidate
    raise SubnetError(
        f"None of the members {', '.join(m.name for m in members)} contains all others, so that they cannot share a "
        "cache. Name one member for the whole text."
    )


def _contains(large: Subnet, small: Subnet) -> bool:
    return all(
        (not s.attention or (a.attention and a.heads[: len(s.heads)] == s.heads))
        and (not s.ffn or (a.ffn and a.ffn_blocks[: len(s.ffn_blocks)] == s.ffn_blocks))
        for a, s in zip(large.layers, small.layers, strict=True)
    )


def _view(view: Any, largest: Subnet, member: Any, subnet: Subnet) -> Any:
    """The largest member's modules, in place, with another member's maps in them, but all keys and values."""
    layout, there = Layout(view), places(subnet)
    layers = get(member, layout.stack_path)
    for number, place in places(largest).items():
        layer, plan = layout.layers[place], subnet.layers[number]
        mine = layers[there[number]] if plan.is_kept else layer
        attention = next((t for t in layout.family.attention if t.is_in(layer)), None)
        if attention is not None and plan.attention and plan.heads:
            for part in attention.parts:
                if not part.is_key_value:
                    put(layer, part.path, get(mine, part.path))
            for path, name in layout.counters(attention):
                setattr(get(layer, path), name, getattr(get(mine, path), name))
        elif attention is not None:
            rest = get(mine, attention.block) if plan.attention else None
            put(layer, attention.block, FillingAttention(get(layer, attention.block), rest))
        ffn = next((t for t in layout.family.ffn if t.is_in(layer)), None)
        if ffn is not None and plan.ffn:
            for part in ffn.parts:
                put(layer, part.path, get(mine, part.path))
        elif ffn is not None:
            for path, make in ffn.absent.items():
                put(layer, path, make())
    return view


def _shown(subnet: Subnet, largest: Subnet, layout: Layout) -> list[int | None]:
    """Groups that a member attends with in each layer of the largest; None for all of them."""
    plans = [subnet.layers[number] for number in places(largest)]
    return [None if layout.shares_key_value or not (p.attention and p.heads) else len(p.heads) for p in plans]


def _key_value_weights(model: Any) -> int:
    """Weights of all maps that make keys and values."""
    paths = tuple(f".{part.path}.weight" for part in ATTENTION.parts if part.is_key_value)
    return sum(p.numel() for name, p in model.named_parameters() if name.endswith(paths))
