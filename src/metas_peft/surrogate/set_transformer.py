"""A set transformer that reads calibration points and writes the weights of an additive mixture.

    points --embed--> 2 x self-attention --> mean and maximum --with a summary--> MLP --> weights, power, spread

It starts as the robust roofline of the same points, and learns what to add: each expert's weights are the roofline's,
scaled by a bounded factor, plus new ones. So a device is read once, and predicting costs as much as a roofline;
whatever the network says, more work never costs less (`additive`).
"""

from dataclasses import dataclass

import torch
from torch import nn

from metas_peft.surrogate.additive import AdditiveMixture
from metas_peft.surrogate.reading import Reading, mean_power
from metas_peft.surrogate.terms import Schema

UNITS = 2  # energy, latency
LOG_FACTOR = 2.0  # bound of the scaling of roofline weights
LOG_NEW = (-9.0, 1.5)  # bounds of the logarithm of an added weight; a weight of 1 is the whole cost
NEW_AT_START = -4.0
ERROR_AT_START = -4.0
LOG_ERROR = (-7.0, 1.0)
LOG_BEND = 0.6  # bound of the logarithm of an expert's exponent
LEVEL_BOUND = 0.4
SLOPE_AT_START = 0.5
TILT_BOUND = 0.5


@dataclass(frozen=True)
class Size:
    """Sizes of the network.

    Attributes:
        tokens: Features of a point.
        summary: Features of the set.
        terms: Columns K.
        basis: Basis functions P.
        experts: Experts per unit.
        width: Of the residual stream.
        heads: Of attention.
        blocks: Of self-attention.
    """

    tokens: int
    summary: int
    terms: int
    basis: int
    experts: int = 3
    width: int = 64
    heads: int = 4
    blocks: int = 2


class Block(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Points (B, n, width) to points of the same shape."""
        batch, points, width = x.shape
        q, k, v = self.qkv(self.norm_in(x)).view(batch, points, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, points, width))
        return x + self.mlp(self.norm_out(x))


class SetTransformer(nn.Module):
    """Reads calibration points, writes the weights of an `AdditiveMixture`."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        w = size.width
        self.embed = nn.Sequential(nn.Linear(size.tokens, w), nn.GELU(), nn.Linear(w, w))
        self.blocks = nn.ModuleList(Block(w, size.heads) for _ in range(size.blocks))
        self.norm = nn.LayerNorm(2 * w)
        self.head = nn.Sequential(nn.Linear(2 * w + size.summary, 2 * w), nn.GELU(), nn.Linear(2 * w, 2 * w), nn.GELU())
        per_expert = 2 * size.basis + 3
        self.parts = (UNITS * size.experts * per_expert, UNITS, 2 + size.terms, 6)
        self.out = nn.Linear(2 * w, sum(self.parts))
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, reading: Reading, schema: Schema) -> tuple[AdditiveMixture, torch.Tensor]:
        """Read B sets of points.

        Returns:
            The mixtures, and what `log_scale` makes the size of errors of, shape (B, 6).
        """
        size = self.size
        x = self.embed(reading.tokens)
        for block in self.blocks:
            x = block(x)
        pooled = self.norm(torch.cat([x.mean(1), x.amax(1)], -1))
        said = self.out(self.head(torch.cat([pooled, reading.summary], -1)))
        raw, level, power, spread = said.split(self.parts, -1)
        raw = raw.view(len(said), UNITS, size.experts, -1)
        factor, new, mix, which, bend = raw.split([size.basis, size.basis, 1, 1, 1], -1)
        # Between the fit without squares and the one with them.
        part = torch.sigmoid(which)
        plain, curved = (reading.fitted[:, i, :, None] for i in (0, 1))
        weights = (part * plain + (1 - part) * curved) * (LOG_FACTOR * torch.tanh(factor / LOG_FACTOR)).exp()
        weights = weights + (NEW_AT_START + new).clamp(*LOG_NEW).exp()
        mixture = AdditiveMixture(
            schema=schema,
            scale=reading.scale.to(said.dtype),
            weights=weights,
            mix=torch.softmax(mix[..., 0], -1),
            bend=(LOG_BEND * torch.tanh(bend[..., 0] / LOG_BEND)).exp(),
            level=reading.level[:, :UNITS].to(said.dtype) + LEVEL_BOUND * torch.tanh(level / LEVEL_BOUND),
            power=self._power(reading, power[:, :2]),
            tilt=TILT_BOUND * torch.tanh(power[:, 2:] / TILT_BOUND),
        )
        return mixture, spread

    def _power(self, reading: Reading, said: torch.Tensor) -> torch.Tensor:
        """Intercept and slope of log peak power on log mean power; the line passes near the points' means."""
        slope = SLOPE_AT_START + said[:, 1:]
        level = reading.level.to(said.dtype)
        intercept = level[:, 2:] + said[:, :1] - slope * mean_power(level)[:, None]
        return torch.cat([intercept, slope], -1)


def log_scale(spread: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """Logarithm of the mean absolute error of log costs that the network expects.

    Args:
        spread: What it wrote, shape (..., 6).
        distance: Of passes from the calibration points, shape (..., 1).

    Returns:
        Shape (..., 3), growing with the distance.
    """
    at_points, growth = spread[..., :3], nn.functional.softplus(spread[..., 3:])
    return (ERROR_AT_START + at_points + growth * distance).clamp(*LOG_ERROR)
