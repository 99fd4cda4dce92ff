"""What ships, as a kind of predictor: the few-shot mixture on gate configurations."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from metas_peft.core.device import DeviceSpec
from metas_peft.surrogate.features import Table
from metas_peft.surrogate.few_shot import FewShot, FewShotFit
from metas_peft.surrogate.nonnegative import fit_nonnegative
from metas_peft.surrogate.reading import Scales
from metas_peft.surrogate.roofline import PoolTypical, RooflineFit
from metas_peft.surrogate.set_transformer import SetTransformer, Size
from metas_peft.surrogate.terms import Schema, gate_terms

# Log costs beyond this are infinite for all purposes; an exponential must not overflow.
LARGEST_LOG = 80.0


@dataclass(frozen=True)
class MetasKind:
    """Networks that learnt on simulated and made-up devices only, ready to be fitted to any device.

    Attributes:
        few_shot: The predictor.
        typical: A typical made-up device in units of its spec sheet: what is expected before the first point.
    """

    few_shot: FewShot
    typical: PoolTypical
    name: ClassVar[str] = "metas"
    scales_itself: ClassVar[bool] = True

    def fit(self, table: Table, spec: DeviceSpec | None) -> "MetasFit":
        """Fit to a handful of records of one device; one is enough."""
        terms = _terms(torch.from_numpy(table.features)).numpy()
        return MetasFit(self.few_shot.fit(terms, _completed(terms, table.costs), self.typical.of(spec)))

    def zero_shot(self, spec: DeviceSpec | None) -> RooflineFit:
        """A typical device's weights, scaled by the spec sheet where known."""
        return self.typical.zero_shot(spec)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Networks in half precision, scales, typical weights."""
        out = {
            "scale_mean": torch.from_numpy(self.few_shot.scales.mean.copy()),
            "scale_spread": torch.from_numpy(self.few_shot.scales.spread.copy()),
            "typical_weights": torch.from_numpy(self.typical.weights.copy()),
        }
        for number, network in enumerate(self.few_shot.networks):
            out |= {f"network{number}.{n}": t.detach().half() for n, t in network.state_dict().items()}
        return out

    def settings(self) -> dict[str, Any]:
        """Everything else, as plain numbers."""
        few_shot = self.few_shot
        return {
            "schema": few_shot.schema.as_dict(),
            "sizes": [asdict(network.size) for network in few_shot.networks],
            "shares": list(few_shot.shares),
            "widths": list(few_shot.widths),
            "power": self.typical.power,
            "spec": list(self.typical.spec),
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> Self:
        """Inverse of `tensors` and `settings`."""
        networks = []
        for number, size in enumerate(settings["sizes"]):
            prefix = f"network{number}."
            # On the meta device nothing is initialised only to be overwritten.
            with torch.device("meta"):
                network = SetTransformer(Size(**size))
            own = {n.removeprefix(prefix): t.float() for n, t in tensors.items() if n.startswith(prefix)}
            network.load_state_dict(own, assign=True)
            networks.append(network.eval().requires_grad_(False))
        rate, bandwidth, watts = settings["spec"]
        energy, latency, power = settings["widths"]
        by_networks, by_roofline, by_squares = settings["shares"]
        few_shot = FewShot(
            schema=Schema.from_dict(settings["schema"]),
            scales=Scales(tensors["scale_mean"].numpy(), tensors["scale_spread"].numpy()),
            networks=tuple(networks),
            shares=(by_networks, by_roofline, by_squares),
            widths=(energy, latency, power),
        )
        typical = PoolTypical(tensors["typical_weights"].numpy(), settings["power"], (rate, bandwidth, watts))
        return cls(few_shot, typical)


@dataclass(frozen=True)
class MetasFit:
    """One device. `fitted` predicts from terms."""

    fitted: FewShotFit

    def __call__(self, columns: torch.Tensor) -> torch.Tensor:
        """Energy (J), latency (ms), peak power (W), shape (..., 3)."""
        return self.fitted.log_costs(_terms(columns)).clamp(-LARGEST_LOG, LARGEST_LOG).exp()

    def log_half_width(self, columns: torch.Tensor) -> torch.Tensor:
        """Half width of the 80 % interval of log costs, shape (..., 3)."""
        return self.fitted.log_half_width(_terms(columns))


def _terms(columns: torch.Tensor) -> torch.Tensor:
    return torch.stack(gate_terms(columns), dim=-1)


def _completed(terms: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Log costs without gaps: what a record lacks is what a roofline of the others says, for power their mean."""
    logs = np.log(costs)
    for metric in range(costs.shape[1]):
        gap = np.isnan(logs[:, metric])
        if gap.any():
            known = costs[~gap, metric]
            weights = fit_nonnegative(terms[~gap], known, ridge=0.05)
            said = np.log(np.maximum(terms[gap] @ weights, 1e-30))
            logs[gap, metric] = said if metric < 2 else np.log(known).mean()
    return logs
