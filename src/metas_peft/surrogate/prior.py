"""Simulated devices: what a device nobody has seen may look like, before the first measurement.

    latency = constant + |compute, memory|_p + overheads, then a cliff where memory runs out, then throttling
    energy  = ((1 - d) * latency + d * ((1 - b) * compute + b * memory)) * polling loss * latency^e
    peak    = mean power^slope * latency^drift

Weights are log-normal (see `terms`): a device is slow at arithmetic, or at moving bytes, or loses its time between
kernels, and mostly it is a mixture. p is 1 (one after the other) half of the time, else larger (overlap). Every
simulated device costs more when any count rises, whatever was drawn; what real devices do beyond that (a tilt in the
logarithm of the counts) belongs to the noise of training and can be switched off.

Levels say nothing here: latencies, energies and powers are relative to a device's own median.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from metas_peft.surrogate.terms import Role, Schema

Array = np.ndarray


@dataclass(frozen=True)
class Habits:
    """How often devices do what is not additive.

    Attributes:
        cliff: Probability that a device runs out of memory within range.
        cliff_log_slope: Upper end of the uniform log slope beyond that.
        swell: Probability that traffic costs more the more is stored.
        throttle: Probability of slowing down under long passes.
        bend: Mean and standard deviation of the exponent beyond 1 that joins latencies to the additive ones.
        tilt: Standard deviation of a random slope per unit of standardised log column; 0 keeps devices monotone.
        quantised: Probability that time is read in coarse steps.
        noise: Medians of the standard deviations of log latency, log mean power and log peak power of a reading.
    """

    cliff: float = 0.15
    cliff_log_slope: float = 3.0
    swell: float = 0.3
    throttle: float = 0.25
    bend: tuple[float, float] = (0.05, 0.17)
    tilt: float = 0.03
    quantised: float = 0.4
    noise: tuple[float, float, float] = (0.08, 0.04, 0.09)


# Passes timed cleanly, many in a row, as this project's own protocol does.
CLEAN = Habits(
    cliff=0.03, swell=0.1, throttle=0.1, bend=(0.0, 0.04), tilt=0.003, quantised=0.0, noise=(0.01, 0.008, 0.014)
)


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the logarithm of a reading, per device, shape (n,)."""

    latency: Array
    mean_power: Array
    peak_power: Array


@dataclass(frozen=True)
class SimulatedDevices:
    """n devices drawn from the prior; every array has n rows.

    Attributes:
        schema: Columns that they charge for.
        weights: Of columns divided by their means, shape (n, K).
        overlap: Exponent p of the norm that joins compute and memory.
        width: Exponent of the efficiency's dependence on width.
        cliff: Threshold on the cliff column and slope beyond it, shape (n, 2).
        swell: Slope of the cost of traffic on what is stored, shape (n,).
        throttle: Depth, place and width of the sigmoid in log latency, shape (n, 3).
        bend: Exponent on latency.
        tilt: Slopes on standardised log columns, shape (n, K).
        dynamic: Share of the energy that goes with work rather than with time; part of it for memory, shape (n, 2).
        energy_bend: Exponent of latency in energy.
        polling: Step in which time is read, and how much of it the energy misses, shape (n, 2).
        peak: Slopes of log peak on log mean power and on log latency, shape (n, 2).
        noise: Of readings.
    """

    schema: Schema
    weights: Array
    overlap: Array
    width: Array
    cliff: Array
    swell: Array
    throttle: Array
    bend: Array
    tilt: Array
    dynamic: Array
    energy_bend: Array
    polling: Array
    peak: Array
    noise: Noise

    def __len__(self) -> int:
        return len(self.weights)

    def take(self, rows: Array) -> "SimulatedDevices":
        """Some of the devices."""
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("schema", "noise")}
        noise = Noise(*(getattr(self.noise, f.name)[rows] for f in dataclasses.fields(Noise)))
        return SimulatedDevices(schema=self.schema, noise=noise, **{n: a[rows] for n, a in parts.items()})

    def run(self, unit: Array, level_rows: int | None = None) -> Array:
        """Noise-free logarithms of costs.

        Args:
            unit: Columns divided by their means, shape (R, K), or (n, R, K) where each device has its own passes.
            level_rows: Levels are relative to the medians of the first so many rows; of all if absent.

        Returns:
            Log latency, log mean power, log peak power, shape (n, R, 3).
        """
        schema = self.schema
        roles = {group.name: group.role for group in schema.groups}
        of_role = {role: np.array([roles[t.group] is role for t in schema.terms]) for role in Role}
        passes = unit if unit.ndim == 3 else np.broadcast_to(unit, (len(self), *unit.shape))

        def paid(role: Role) -> Array:
            chosen = of_role[role]
            return np.einsum("nrk,nk->nr", passes[..., chosen], self.weights[:, chosen])

        def column(name: str) -> Array:
            return passes[..., schema.column(name)]

        compute, memory = paid(Role.COMPUTE), paid(Role.MEMORY)
        stored = np.ones(passes.shape[:2])
        if schema.width:
            compute = compute * np.maximum(column(schema.width), 1e-3) ** -self.width[:, None]
        if schema.cliff is not None:
            stored = passes @ schema.base_shares()[:, schema.cliff]
            memory = memory * (1 + self.swell[:, None] * stored)
        p = self.overlap[:, None]
        top = np.maximum(np.maximum(compute, memory), 1e-30)
        joined = top * ((compute / top) ** p + (memory / top) ** p) ** (1 / p)
        time = paid(Role.CONSTANT) + joined + paid(Role.OVERHEAD)
        if schema.cliff is not None:
            beyond = np.maximum(stored / self.cliff[:, :1] - 1, 0)
            time = time * (1 + self.cliff[:, 1:] * beyond)
        head = slice(level_rows)
        log_t = np.log(time)
        log_t = log_t - np.median(log_t[:, head], axis=1, keepdims=True)
        depth, place, width = self.throttle.T[:, :, None]
        log_t = log_t + depth / (1 + np.exp(-(log_t - place) / width))
        log_t = log_t * (1 + self.bend[:, None])
        if self.tilt.any():
            log_t = log_t + np.einsum("nrk,nk->nr", _standardised(passes), self.tilt)
        log_t = log_t - np.median(log_t[:, head], axis=1, keepdims=True)
        time = np.exp(log_t)
        dynamic, share = self.dynamic[:, :1], self.dynamic[:, 1:]
        middle = [np.median(x[:, head], axis=1, keepdims=True) for x in (compute, memory)]
        work = (1 - share) * compute / np.maximum(middle[0], 1e-30) + share * memory / np.maximum(middle[1], 1e-30)
        energy = (1 - dynamic) * time + dynamic * work
        step, missed = self.polling[:, :1], self.polling[:, 1:]
        reach = np.minimum(0.75 * time.min(1, keepdims=True) / np.maximum(step, 1e-9), 1)
        energy = energy * np.maximum(1 - missed * reach * step / time, 0.15) * time ** self.energy_bend[:, None]
        log_p = np.log(energy) - log_t
        log_k = self.peak[:, :1] * (log_p - log_p[:, head].mean(1, keepdims=True)) + self.peak[:, 1:] * log_t
        return np.stack([log_t, log_p, log_k - np.median(log_k[:, head], axis=1, keepdims=True)], axis=-1)

    def read(self, clean: Array, rng: np.random.Generator) -> Array:
        """Noisy readings of what `run` gave.

        Returns:
            Log energy, log latency, log peak power, shape (n, R, 3): the order of the metrics.
        """
        shape = clean.shape[:2]

        def draw(scale: Array) -> Array:
            # Student-t with four degrees of freedom, brought to about unit variance.
            return scale[:, None] * 0.8 * np.clip(rng.standard_t(4, shape), -6, 6)

        off_t, off_p = draw(self.noise.latency), draw(self.noise.mean_power)
        log_t = clean[..., 0] + off_t
        step = self.polling[:, :1]
        coarse = np.log(np.maximum(np.ceil(np.exp(log_t) / np.maximum(step, 1e-9)) * step, 1e-9))
        read_t = np.where(step > 0, coarse, log_t)
        # Energy follows what time was read, a little less than wholly.
        log_e = clean[..., 0] + clean[..., 1] + (read_t - clean[..., 0]) * rng.uniform(0.7, 1.1, (len(self), 1)) + off_p
        log_k = clean[..., 2] + rng.normal(0.3, 0.4, (len(self), 1)) * off_p + draw(self.noise.peak_power)
        return np.stack([log_e, read_t, log_k], axis=-1)


def draw_devices(schema: Schema, n: int, rng: np.random.Generator, habits: Habits | None = None) -> SimulatedDevices:
    """Draw devices from the prior.

    Args:
        schema: Columns to charge for.
        n: How many.
        rng: Source of randomness.
        habits: How often they do what is not additive.
    """
    habits = habits or Habits()
    common = {g.name: g.centre + g.spread * rng.standard_normal(n) for g in schema.groups}
    weights = np.exp(
        np.stack([common[t.group] + t.centre + t.spread * rng.standard_normal(n) for t in schema.terms], axis=1)
    )
    is_cliff = rng.random(n) < habits.cliff
    slope = is_cliff * np.exp(rng.uniform(0, habits.cliff_log_slope, n))
    swollen = (rng.random(n) < habits.swell) * np.exp(rng.normal(-0.5, 1.0, n))
    throttled = (rng.random(n) < habits.throttle) * rng.uniform(0, 0.4, n)
    step = (rng.random(n) < habits.quantised) * np.exp(rng.uniform(np.log(0.002), np.log(0.25), n))
    return SimulatedDevices(
        schema=schema,
        weights=weights,
        overlap=np.where(rng.random(n) < 0.5, 1.0, np.exp(rng.uniform(0, 1.5, n))),
        width=np.clip(rng.normal(0.1, 0.2, n), -0.3, 0.6),
        cliff=np.stack([rng.uniform(0.8, 2.2, n), slope], axis=1),
        swell=swollen,
        throttle=np.stack([throttled, rng.normal(0, 0.7, n), np.full(n, 0.3)], axis=1),
        bend=np.clip(rng.normal(*habits.bend, n), -0.3, 0.8),
        tilt=habits.tilt * rng.standard_normal((n, len(schema.terms))),
        dynamic=np.stack([rng.beta(0.6, 1.2, n), rng.beta(0.5, 2, n)], axis=1),
        energy_bend=np.clip(rng.normal(0.03, 0.07, n), 0.0, None),
        polling=np.stack([step, rng.uniform(0, 1.3, n)], axis=1),
        peak=np.stack([rng.normal(0.5, 0.7, n), rng.normal(0.03, 0.08, n)], axis=1),
        noise=Noise(
            *(np.exp(rng.normal(np.log(median), 0.5, n)) for median in habits.noise),
        ),
    )


def _standardised(passes: Array) -> Array:
    """Log columns with mean 0 and spread 1 over the passes; columns that do not vary are 0."""
    logs = np.log(np.maximum(passes, 1e-3))
    spread = logs.std(axis=-2, keepdims=True)
    return np.where(spread > 1e-6, (logs - logs.mean(axis=-2, keepdims=True)) / np.maximum(spread, 1e-6), 0.0)
