"""The predictor that ships: a handful of points in, an additive mixture out.

Three opinions are averaged in log space: set transformers that correct the robust roofline of the points, that roofline
itself, and a roofline with some terms squared. Peak power is the networks' alone. All of it is one mixture, so that the
average costs more whenever a count rises, and predicting costs no more than a few rooflines.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from metas_peft.surrogate.additive import AdditiveMixture, distance
from metas_peft.surrogate.nonnegative import fit_nonnegative
from metas_peft.surrogate.reading import Scales, read_points, with_squares
from metas_peft.surrogate.set_transformer import UNITS, SetTransformer, log_scale
from metas_peft.surrogate.terms import Schema

POWER = 2
RIDGE = 0.002  # pull of the rooflines towards the expected parts, in records
FEWEST_FOR_SCATTER = 3
SCATTER = (0.2, 3.0)  # bounds of what the points may say of it
# No peak power so far beyond the points' own is believed: over a thousandfold range of work a line in logarithms is
# a poor guide, while real devices have a ceiling and a floor.
PEAK_REACH = float(np.log(2.0))
# 80 % of a Laplace distribution lie within this many mean absolute errors.
LAPLACE_80 = float(np.log(5.0))


@dataclass(frozen=True)
class FewShot:
    """Ready to be fitted to any device.

    Attributes:
        schema: Of the terms.
        scales: Of the log terms.
        networks: Trained alike from different seeds.
        shares: Of the networks, the roofline and the roofline with squares in energy and latency; where the schema
            squares nothing, both rooflines are one.
        widths: Factors on the errors that the networks expect, per metric, such that 80 % intervals hold 80 %.
    """

    schema: Schema
    scales: Scales
    networks: tuple[SetTransformer, ...]
    shares: tuple[float, float, float] = (0.4, 0.3, 0.3)
    widths: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def fit(self, terms: np.ndarray, logs: np.ndarray, centre: np.ndarray | None = None) -> "FewShotFit":
        """Fit to one device.

        Args:
            terms: Counted terms of the points, shape (n, K).
            logs: Log energy (J), latency (ms), peak power (W), all finite, shape (n, 3).
            centre: Expected weights of the roofline's terms in energy and latency, of which only the proportions count,
                shape (2, base terms); None for equal parts.
        """
        expected = None if centre is None else centre[None]
        reading = read_points(self.schema, self.scales, terms[None], logs[None], expected)
        with torch.no_grad():
            said = [network(reading, self.schema) for network in self.networks]
        mixtures = [_exactly(mixture, reading.scale[0]) for mixture, _ in said]
        spread = torch.stack([s[0].double() for _, s in said]).mean(0)
        peaks = (float(logs[:, POWER].min()) - PEAK_REACH, float(logs[:, POWER].max()) + PEAK_REACH)
        bare = FewShotFit(self._average(mixtures, terms, logs, centre), spread, (1.0, 1.0, 1.0), peaks)
        energy, latency, power = self.widths
        return replace(bare, widths=(energy, latency, power * _power_scatter(bare, terms, logs)))

    def _average(
        self, mixtures: Sequence[AdditiveMixture], terms: np.ndarray, logs: np.ndarray, centre: np.ndarray | None
    ) -> AdditiveMixture:
        """Networks and roofline as the experts of one mixture."""
        first, by_networks = mixtures[0], self.shares[0]
        level = logs[:, :UNITS].mean(0)
        rooflines = self._rooflines(terms, np.exp(logs[:, :UNITS] - level), first.scale.numpy(), centre)
        rest = torch.tensor(self.shares[1:], dtype=torch.float64).expand(UNITS, -1)

        def mean(name: str) -> torch.Tensor:
            return torch.stack([getattr(m, name) for m in mixtures]).mean(0)

        return AdditiveMixture(
            schema=self.schema,
            scale=first.scale,
            weights=torch.cat([*(m.weights for m in mixtures), torch.from_numpy(np.stack(rooflines, 1))], 1),
            mix=torch.cat([*(by_networks / len(mixtures) * m.mix for m in mixtures), rest], 1),
            bend=torch.cat([*(m.bend for m in mixtures), torch.ones_like(rest)], 1),
            level=by_networks * mean("level") + (1 - by_networks) * torch.from_numpy(level),
            power=mean("power"),
            tilt=mean("tilt"),
        )

    def _rooflines(
        self, terms: np.ndarray, costs: np.ndarray, scale: np.ndarray, centre: np.ndarray | None
    ) -> list[np.ndarray]:
        """Robust non-negative fits of energy and latency on the basis, each (2, P): plain, and with squares if any."""
        schema = self.schema
        to_base = schema.base_matrix()
        # Each roofline term is of mean 1 over the points; `share` says what of it each column brings.
        share = to_base * scale[:, None] / np.maximum(scale @ to_base, 1e-30)
        rows = (terms / scale) @ share
        squares = rows[:, list(schema.squared)] ** 2
        parts = np.ones((UNITS, to_base.shape[1])) if centre is None else centre * (scale @ to_base)
        found = []
        for count in (0, len(schema.squared)):
            expected = with_squares(parts, count) if count else parts
            assert expected is not None  # parts are expected, so are those of the squares
            columns = np.concatenate([rows, squares[:, :count]], 1)
            out = np.zeros((UNITS, schema.basis_size))
            for metric in range(UNITS):
                fitted = fit_nonnegative(columns, costs[:, metric], RIDGE, expected[metric])
                out[metric, : len(to_base)] = share @ fitted[: rows.shape[1]]
                out[metric, len(to_base) : len(to_base) + count] = fitted[rows.shape[1] :]
            found.append(out)
        return found


def _power_scatter(fitted: "FewShotFit", terms: np.ndarray, logs: np.ndarray) -> float:
    """How much wider peak power scatters at the points than the networks expect, damped.

    Peak power has a meter's scatter of its own, which its points show (correlation 0.6 with the errors elsewhere); the
    errors of energy and latency are those of the model, which its points show less.
    """
    if len(terms) < FEWEST_FOR_SCATTER:
        return 1.0
    points = torch.from_numpy(terms)
    off = np.abs(fitted.log_costs(points).numpy() - logs)[:, POWER]
    expected = fitted.log_half_width(points).numpy()[:, POWER]
    return float(np.sqrt(np.clip((off / expected).mean(), *SCATTER)))


@dataclass(frozen=True)
class FewShotFit:
    """One device.

    Attributes:
        mixture: Its costs.
        spread: What `log_scale` makes the size of errors of, shape (6,).
        widths: See `FewShot`.
        peaks: Bounds of log peak power (W).
    """

    mixture: AdditiveMixture
    spread: torch.Tensor
    widths: tuple[float, float, float]
    peaks: tuple[float, float]

    def log_costs(self, terms: torch.Tensor) -> torch.Tensor:
        """Log energy (J), latency (ms), peak power (W) of passes (..., K), shape (..., 3)."""
        flat = terms.reshape(-1, terms.shape[-1])
        said = self.mixture.log_costs(flat)
        peak = said[:, POWER:].clamp(*self.peaks)
        return torch.cat([said[:, :POWER], peak], -1).reshape(*terms.shape[:-1], 3)

    def log_half_width(self, terms: torch.Tensor) -> torch.Tensor:
        """Half width of the 80 % interval of log costs, shape (..., 3)."""
        schema = self.mixture.schema
        far = distance(schema, terms / self.mixture.scale)[..., None]
        widths = torch.tensor(self.widths, dtype=terms.dtype)
        return LAPLACE_80 * widths * log_scale(self.spread.to(terms.dtype), far).exp()


def _exactly(mixture: AdditiveMixture, scale: torch.Tensor) -> AdditiveMixture:
    """The only one of a batch, in double precision and with the exact scale."""
    parts = {n: getattr(mixture, n)[0].double() for n in ("weights", "mix", "bend", "level", "power", "tilt")}
    return AdditiveMixture(schema=mixture.schema, scale=scale, **parts)
