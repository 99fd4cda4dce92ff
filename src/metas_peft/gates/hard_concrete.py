"""Hard-concrete gates as pure functions.

Louizos, Welling and Kingma 2018, "Learning Sparse Neural Networks through L0 Regularization", equations 10 to 13,
with stretch (gamma, zeta) = (-0.1, 1.1).
"""

import math

import torch

GAMMA, ZETA = -0.1, 1.1


def sample(log_alpha: torch.Tensor, temperature: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """One sample of every gate.

    Args:
        log_alpha: Log-odds, any shape.
        temperature: Concrete temperature beta, positive.
        generator: Source of the uniform noise.

    Returns:
        Gates in [0, 1], exactly 0 and exactly 1 with positive probability; differentiable in `log_alpha`.
    """
    eps = 1e-6
    u = torch.rand(log_alpha.shape, generator=generator, dtype=log_alpha.dtype).clamp(eps, 1 - eps)
    s = torch.sigmoid((torch.log(u) - torch.log1p(-u) + log_alpha) / temperature)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def probability_open(log_alpha: torch.Tensor, temperature: float) -> torch.Tensor:
    """P(z > 0), same shape as `log_alpha`, differentiable."""
    return torch.sigmoid(log_alpha - temperature * math.log(-GAMMA / ZETA))


def log_alpha_for(probability: float, temperature: float) -> float:
    """Log-odds at which a gate is open with the given probability; inverse of `probability_open`."""
    return math.log(probability / (1 - probability)) + temperature * math.log(-GAMMA / ZETA)


def expected_gate(log_alpha: torch.Tensor, temperature: float, points: int = 64) -> torch.Tensor:
    """E[z], by the mid-point rule over the quantiles of the uniform noise.

    Gates are ranked by this: unlike P(z > 0) it still separates gates at high temperatures, where nearly every
    sample is fractional.

    Args:
        log_alpha: Log-odds, any shape.
        temperature: Concrete temperature, positive.
        points: Quantiles used.

    Returns:
        Expectations in (0, 1), same shape.
    """
    u = (torch.arange(points, dtype=log_alpha.dtype) + 0.5) / points
    noise = torch.log(u) - torch.log1p(-u)
    s = torch.sigmoid((noise + log_alpha[..., None]) / temperature)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0).mean(-1)


def log_alpha_for_expectation(expectation: float, temperature: float) -> float:
    """Log-odds at which E[z] has a given value in (0, 1); inverse of `expected_gate`, by bisection."""
    low, high = -40.0 - 10 * temperature, 40.0 + 10 * temperature
    for _ in range(60):
        middle = (low + high) / 2
        is_below = float(expected_gate(torch.tensor(middle, dtype=torch.float64), temperature)) < expectation
        low, high = (middle, high) if is_below else (low, middle)
    return (low + high) / 2
