"""The source's network, many at once: device tag -> 8-d embedding; MLP 64-64-3 with ReLU on (features, tag).

Several networks (seeds, and one per held-out device) train side by side as batched matrix products, which costs
little more than one. The first axis E of every tensor counts them.

Targets are log costs, each device's own level removed: what a network says is the *shape* of the cost over
passes, and a device's level comes from its own samples. Adaptation to a device is the tag and a scale per metric, by a
few gradient steps from the mean tag, and the level in closed form:

    log cost(s) = level + exp(log_scale) * (net(s, tag) - mean over samples of net)
"""

from dataclasses import dataclass

import torch

from metas_peft.surrogate.features import COLUMNS

TAG = 8
HIDDEN = 64
METRIC_COUNT = 3
_PLAIN = tuple(COLUMNS.index(name) for name in ("is_decode", "is_separate"))

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Standardiser:
    """Log features with mean 0 and spread 1 over the pool.

    Attributes:
        mean: Shape (F,).
        spread: Shape (F,); 1 where a column never varies.
        plain: Columns that are flags; the others are counts, of which logarithms are taken.
    """

    mean: torch.Tensor
    spread: torch.Tensor
    plain: tuple[int, ...] = _PLAIN

    @classmethod
    def learn(cls, columns: torch.Tensor, plain: tuple[int, ...] = _PLAIN) -> "Standardiser":
        """From the columns of a pool, shape (N, C)."""
        raw = log_columns(columns, plain)
        spread = raw.std(0, unbiased=False)
        return cls(raw.mean(0), torch.where(spread > 1e-9, spread, torch.ones_like(spread)), plain)

    def __call__(self, columns: torch.Tensor) -> torch.Tensor:
        """Standardised features, shape (..., F)."""
        return (log_columns(columns, self.plain) - self.mean) / self.spread


def log_columns(columns: torch.Tensor, plain: tuple[int, ...] = _PLAIN) -> torch.Tensor:
    """Logarithm of every count (0 stays 0), then flags as they are; shape (..., F) with F = C."""
    counted = [i for i in range(columns.shape[-1]) if i not in plain]
    return torch.cat([columns[..., counted].log1p(), columns[..., list(plain)]], dim=-1)


def initial_weights(seeds: list[int], features: int, devices: int) -> Weights:
    """Fresh parameters of E networks, E seeds.

    Args:
        seeds: One seed per network.
        features: Number of input features F.
        devices: Number of device tags.

    Returns:
        Single precision; `tags` (E, devices, 8), `w1` (E, F + 8, 64), `w2` (E, 64, 64), `w3` (E, 64, 3), biases
        (E, 1, n), and the logarithms of the step sizes of adaptation (E, 1, 1).
    """
    parts: list[Weights] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, gain: float, source: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(*shape, generator=source) * gain

        parts.append(
            {
                "tags": normal(devices, TAG, gain=0.3),
                "w1": normal(features + TAG, HIDDEN, gain=(2 / (features + TAG)) ** 0.5),
                "b1": torch.zeros(1, HIDDEN),
                "w2": normal(HIDDEN, HIDDEN, gain=(2 / HIDDEN) ** 0.5),
                "b2": torch.zeros(1, HIDDEN),
                "w3": normal(HIDDEN, METRIC_COUNT, gain=(1 / HIDDEN) ** 0.5),
                "b3": torch.zeros(1, METRIC_COUNT),
                "log_step_tag": torch.full((1, 1), -1.0),
                "log_step_scale": torch.full((1, 1), -2.0),
            }
        )
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def forward(weights: Weights, features: torch.Tensor, tag: torch.Tensor) -> torch.Tensor:
    """The network.

    Args:
        weights: Parameters of E networks.
        features: Standardised features, shape (E or 1, n, F).
        tag: Embedded tags, shape (E, n or 1, 8).

    Returns:
        Level-free log costs, shape (E, n, 3).
    """
    count = features.shape[-1]
    # The concatenation (features, tag) @ w1, without building it.
    hidden = features @ weights["w1"][:, :count] + tag @ weights["w1"][:, count:] + weights["b1"]
    hidden = torch.relu(hidden)
    hidden = torch.relu(hidden @ weights["w2"] + weights["b2"])
    return hidden @ weights["w3"] + weights["b3"]


@dataclass(frozen=True)
class Adapted:
    """What distinguishes one device, for E networks.

    Attributes:
        tag: Embedded tag, shape (E, 1, 8).
        log_scale: Shape (E, 1, 3).
        level: Log cost minus scaled network output, shape (E, 1, 3).
    """

    tag: torch.Tensor
    log_scale: torch.Tensor
    level: torch.Tensor


def adapt(
    weights: Weights,
    start: torch.Tensor,
    features: torch.Tensor,
    log_costs: torch.Tensor,
    known: torch.Tensor,
    steps: int,
    create_graph: bool,
) -> Adapted:
    """Adapt tag, scale and level to the samples of one device.

    Args:
        weights: Parameters of E networks.
        start: Tag to start from, shape (E, 1, 8).
        features: Standardised features of the samples, shape (E or 1, n, F).
        log_costs: Their log costs, any number where unknown, shape (E or 1, n, 3).
        known: 1 where a cost was measured, else 0, shape (E or 1, n, 3).
        steps: Gradient steps.
        create_graph: Whether the outer loop will differentiate through the steps.
    """
    share = known / known.sum(-2, keepdim=True).clamp_min(1.0)
    target_level = (share * log_costs).sum(-2, keepdim=True)
    tag = start if create_graph else start.detach().requires_grad_()
    log_scale = torch.zeros(len(start), 1, METRIC_COUNT, dtype=start.dtype, requires_grad=True)
    for _ in range(steps):
        said = forward(weights, features, tag)
        said_level = (share * said).sum(-2, keepdim=True)
        residual = log_scale.exp() * (said - said_level) - (log_costs - target_level)
        loss = (share * residual**2).sum()
        to_tag, to_scale = torch.autograd.grad(loss, [tag, log_scale], create_graph=create_graph)
        tag = tag - weights["log_step_tag"].exp() * to_tag
        log_scale = log_scale - weights["log_step_scale"].exp() * to_scale
    said_level = (share * forward(weights, features, tag)).sum(-2, keepdim=True)
    return Adapted(tag, log_scale, target_level - log_scale.exp() * said_level)


def predict(weights: Weights, device: Adapted, features: torch.Tensor) -> torch.Tensor:
    """Log costs of an adapted device, shape (E, n, 3)."""
    return device.level + device.log_scale.exp() * forward(weights, features, device.tag)
