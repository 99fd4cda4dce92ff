"""Gates as products that keep nothing for the backward pass but what the neighbours keep anyway.

A plain `x * z` saves x for the slope of z, beside the product that the next map saves. Here the product is saved alone
and x is told from it, so that gates take next to no memory. A gate at exactly 0 therefore gets no slope, which is what
a clipped hard-concrete sample has there.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


class _ScaledUnits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        y = _times(x, z)
        ctx.save_for_backward(y, z)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        y, z = ctx.saved_tensors
        into_z = None
        product = g * y
        if ctx.needs_input_grad[1]:
            columns = product.reshape(-1, y.shape[-1]).sum(0, dtype=_wide(y))
            into_z = _over(columns.view(len(z), -1).sum(1), z)
        # In the same memory: fresh pages cost more than the arithmetic.
        return _times(g, z, out=product), into_z


class _Blended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        out = torch.lerp(x, y, z.to(y.dtype))
        # What the block added can be told from the sum where rounding is far below it.
        ctx.is_told = out.dtype in (torch.float32, torch.float64)
        ctx.save_for_backward(x, out if ctx.is_told else y, z)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, kept, z = ctx.saved_tensors
        into_z = None
        added = kept - x
        if ctx.needs_input_grad[2] and ctx.is_told:
            into_z = _over(torch.dot(added.reshape(-1), g.reshape(-1)), z)
        elif ctx.needs_input_grad[2]:
            into_z = (added * g).sum(dtype=_wide(added)).to(z.dtype)
        into_y = torch.mul(g, z.to(g.dtype), out=added)
        return g - into_y, into_y, into_z


def scale_units(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Multiply each unit's entries by its gate.

    Args:
        x: (..., U * S), the S entries of a unit one after another.
        z: (U,), gates in [0, 1].

    Returns:
        As `x`, in its type.
    """
    return _ScaledUnits.apply(x, z)  # type: ignore[return-value]


def blend(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Exactly x at z = 0 and exactly y at z = 1, which x + z (y - x) is not in floating point.

    Args:
        x: What stands without the block.
        y: What stands with it, same shape.
        z: Gate in [0, 1], a scalar.

    Returns:
        As `y`, in its type.
    """
    return _Blended.apply(x.to(y.dtype), y, z)  # type: ignore[return-value]


def _times(x: torch.Tensor, z: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    units = (*x.shape[:-1], len(z), -1)
    return torch.mul(x.view(units), z.to(x.dtype)[:, None], out=None if out is None else out.view(units)).view(x.shape)


def _wide(x: torch.Tensor) -> torch.dtype:
    """Type in which many products are summed."""
    return torch.promote_types(x.dtype, torch.float32)


def _over(slope: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Slope of a product by its gate, from the sum of gradient times product."""
    return torch.where(z > 0, slope / z, 0.0).to(z.dtype)
