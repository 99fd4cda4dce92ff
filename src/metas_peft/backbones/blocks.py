"""What stands where a removed sub-layer stood. No parameters of their own, so nothing to save or load.

A decoder's cache asks its layers how many tokens it holds. A layer whose attention is gone has no keys and values to
answer with, and it may be the very layer that is asked; so it leaves one number per token there instead.
"""

from typing import Any

import torch
from torch import nn

from metas_peft.backbones.kv_cache import cache_among


class SkippedAttention(nn.Module):
    """A post-norm attention sub-layer that is gone: the hidden state passes unchanged."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """(B, T, D) -> the same tensor, and no attention weights."""
        return hidden_states, None


class SkippedOutput(nn.Module):
    """The output map of a post-norm feed-forward sub-layer that is gone: the residual passes unchanged."""

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        """The second argument, (B, T, D)."""
        return input_tensor


class ZeroAttention(nn.Module):
    """A pre-norm attention sub-layer that is gone: nothing is added to the residual.

    Attributes:
        layer_idx: Place in the cache.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer_idx = 0

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """(B, T, D) -> zeros of that shape, and no attention weights."""
        count_tokens(cache_among(kwargs), hidden_states, self.layer_idx)
        return zeros_like(hidden_states), None


class ZeroFeedForward(nn.Module):
    """A pre-norm feed-forward sub-layer that is gone: nothing is added to the residual."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> zeros of that shape."""
        return zeros_like(hidden_states)


class ZeroExperts(nn.Module):
    """A feed-forward sub-layer with experts that is gone; it also answers for their router."""

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, None]:
        """(B, T, D) -> zeros of that shape, and no router scores."""
        return zeros_like(hidden_states), None


class HeadlessSelfAttention(nn.Module):
    """Self-attention without a head: an empty context, so that the output projection adds its bias alone."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """(B, T, D) -> (B, T, 0)."""
        return hidden_states[..., :0], None


class NoMap(nn.Module):
    """A map whose outputs are all gone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., 0)."""
        return x[..., :0]


class BiasMap(nn.Module):
    """A map without inputs left: its bias, or zeros, at every position.

    Runtimes disagree about products over nothing (a Conv1D refuses them, dynamic quantisation finds no range in them).

    Args:
        bias: (D,) or None.
        width: D.
    """

    def __init__(self, bias: nn.Parameter | None, width: int) -> None:
        super().__init__()
        self.bias = bias
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., 0) -> (..., D)."""
        values = x.new_zeros(()) if self.bias is None else self.bias
        return values.expand(*x.shape[:-1], self.width).contiguous()  # some blocks add to it in place


class HeadlessAttention(nn.Module):
    """A whole attention module (output projection included) without a head.

    Args:
        name: Name of the output projection in the module that it stands for.
        output: The output projection, whose bias is all that remains.

    Attributes:
        layer_idx: Place in the cache.
    """

    def __init__(self, name: str, output: Any) -> None:
        super().__init__()
        self.layer_idx = 0
        self._name = name
        self.add_module(name, output)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """(B, T, D) -> (B, T, D), the bias at every position."""
        count_tokens(cache_among(kwargs), hidden_states, self.layer_idx)
        return self.get_submodule(self._name)(hidden_states[..., :0]), None


def count_tokens(cache: Any, hidden_states: torch.Tensor, layer_idx: int) -> None:
    """Tell a cache that tokens have passed a layer that keeps nothing of them but their number.

    Args:
        cache: `transformers` cache, or None.
        hidden_states: (B, T, D).
        layer_idx: Place in the cache.
    """
    if cache is not None:
        note = hidden_states.new_zeros((*hidden_states.shape[:1], 1, hidden_states.shape[1], 1))
        cache.update(note, note, layer_idx)


def zeros_like(hidden_states: torch.Tensor) -> torch.Tensor:
    """Zeros of a tensor's shape that take no memory."""
    return hidden_states.new_zeros(()).expand(hidden_states.shape)
