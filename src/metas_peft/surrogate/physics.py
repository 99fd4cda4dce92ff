"""What no device can do: be above its cap, or draw on average more than at its peak."""

import torch

from metas_peft.core.units import S_PER_MS


def project(costs: torch.Tensor, power_cap_w: float | None) -> torch.Tensor:
    """Change predicted costs as little as needed for them to be possible.

    Latency is what is known best and stays. Energy is lowered where its mean power, energy / latency, would be
    above the cap; peak power is then moved into [mean power, cap]. Differentiable almost everywhere, and monotone
    in energy and latency.

    Args:
        costs: Energy (J), latency (ms), peak power (W), positive, shape (..., 3).
        power_cap_w: Limit of the device; None if unknown.

    Returns:
        Possible costs, shape (..., 3).
    """
    energy, latency, peak = costs.unbind(-1)
    seconds = latency * S_PER_MS
    if power_cap_w is not None:
        energy = torch.minimum(energy, power_cap_w * seconds)
        peak = peak.clamp(max=power_cap_w)
    # Rounding in the division must not leave the mean above the peak.
    peak = torch.maximum(peak, energy / seconds)
    return torch.stack([energy, latency, peak], dim=-1)
