"""What separates a simulated reading from the noise-free truth: three named terms.

* **bias**: the power sensor's gain error. Drawn once from the device's name, the same in every reading of energy
  and power; it is part of the *truth* of a simulator, because budgets on a device are checked against what its
  sensor reads, and no number of repetitions removes it.
* **run**: what changes between two protocol runs and stays for one of them (temperature, background load): half of
  a single pass's spread. Each measurement of a configuration is a protocol run of its own.
* **passes**: what is left of a single pass's spread in the median over the passes of one protocol run.

Run and passes together are one protocol run's repeat noise. Anchor, warm-up and cool-down are there to keep it low,
so it is limited to 2 % per metric, the two terms shrunk alike. Latency and energy share most of their noise
(correlation 0.7): whatever slows a pass makes it cost more.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from metas_peft.core.cost import Cost
from metas_peft.devices.entry import PassNoise

SHARED_CORRELATION = 0.7
RUN_SHARE = 0.5
REPEAT_LIMIT = 0.02
PASSES_PER_RUN = 20


@dataclass(frozen=True)
class RepeatNoise:
    """Standard deviations of the logarithm of one protocol run's result, per metric and term."""

    run: Cost[float]
    passes: Cost[float]

    @property
    def total(self) -> Cost[float]:
        """Both terms together."""
        return self.run.zip(self.passes, math.hypot)


def repeat_noise(single_pass: PassNoise) -> RepeatNoise:
    """Noise of a whole protocol run, from that of a single pass."""
    sigma = Cost(single_pass.energy_sigma, single_pass.latency_sigma, single_pass.peak_power_sigma)
    run = sigma.map(lambda s: RUN_SHARE * s)
    passes = sigma.map(lambda s: s / math.sqrt(PASSES_PER_RUN))
    shrink = run.zip(passes, math.hypot).map(lambda s: min(1.0, REPEAT_LIMIT / s) if s > 0 else 1.0)
    return RepeatNoise(run.zip(shrink, lambda a, b: a * b), passes.zip(shrink, lambda a, b: a * b))


def seed_of(*parts: object) -> int:
    """A seed that is the same in every process: 64 bits of a hash of the parts' text."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def sensor_bias(device_id: str, sigma: float) -> float:
    """Gain of a device's power sensor, near 1; fixed by the device's name."""
    return math.exp(sigma * np.random.default_rng(seed_of("sensor bias", device_id)).standard_normal())


def repeat_factors(noise: RepeatNoise, seed: int) -> Cost[float]:
    """Factors by which one protocol run's latency, energy and peak power are off.

    Args:
        noise: Spread of the two terms.
        seed: Decides the draw.
    """
    rng = np.random.default_rng(seed)
    energy = latency = peak = 0.0
    for term in (noise.run, noise.passes):
        common, own, apart = rng.standard_normal(3)
        latency += term.latency_ms * common
        energy += term.energy_j * (SHARED_CORRELATION * common + math.sqrt(1 - SHARED_CORRELATION**2) * own)
        peak += term.peak_power_w * apart
    return Cost(energy, latency, peak).map(math.exp)
