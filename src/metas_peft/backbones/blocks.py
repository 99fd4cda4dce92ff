"""What stands where a removed sub-layer stood. No parameters, so nothing to save or load."""

from typing import Any

import torch
from torch import nn


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
    """A pre-norm attention sub-layer that is gone: nothing is added to the residual."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """(B, T, D) -> zeros of that shape, and no attention weights."""
        return torch.zeros_like(hidden_states), None


class ZeroFeedForward(nn.Module):
    """A pre-norm feed-forward sub-layer that is gone: nothing is added to the residual."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> zeros of that shape."""
        return torch.zeros_like(hidden_states)


class HeadlessSelfAttention(nn.Module):
    """Self-attention without a head: an empty context, so that the output projection adds its bias alone."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """(B, T, D) -> (B, T, 0)."""
        return hidden_states[..., :0], None


class HeadlessAttention(nn.Module):
    """A whole attention module (output projection included) without a head.

    Args:
        o_proj: The output projection, whose bias is all that remains.
    """

    def __init__(self, o_proj: nn.Linear) -> None:
        super().__init__()
        self.o_proj = o_proj

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """(B, T, D) -> (B, T, D), the bias at every position."""
        return self.o_proj(hidden_states[..., :0]), None
