"""The types that flow between packages: frozen, plain numbers, JSON-safe.

`Cost` has three roles: a measurement, a prediction, a budget; with `Origin` in its places it says where
each of the three numbers comes from. A number never loses its origin.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from metas_peft.core.errors import SubnetError

T = TypeVar("T")
U = TypeVar("U")

METRICS = ("energy_j", "latency_ms", "peak_power_w")
METRIC_NAMES = {"energy_j": "energy", "latency_ms": "latency", "peak_power_w": "power"}
METRIC_UNITS = {"energy_j": "J", "latency_ms": "ms", "peak_power_w": "W"}


class Origin(StrEnum):
    """Where a number comes from, best first."""

    MEASURED = "measured"  # a meter or a clock read it
    IMPORTED = "imported"  # a file from somebody else's meter
    MODELLED = "modelled"  # computed from a power model, e.g. utilisation x range of power
    SIMULATED = "simulated"  # a device simulator

    @staticmethod
    def weakest(origins: "Sequence[Origin]") -> "Origin":
        """The least trustworthy of several origins: what a derived number may call itself."""
        order = list(Origin)
        return max(origins, key=order.index)


@dataclass(frozen=True)
class Cost(Generic[T]):
    """Energy, latency and peak power of one forward pass of one batch.

    `T` is `float`, `float | None` (not measured), an array, a tensor, or `Origin`.
    """

    energy_j: T
    latency_ms: T
    peak_power_w: T

    @classmethod
    def uniform(cls, value: T) -> "Cost[T]":
        """The same value in all three places."""
        return cls(value, value, value)

    @classmethod
    def of(cls, values: Mapping[str, T]) -> "Cost[T]":
        """From a mapping with the three metric names as keys."""
        return cls(*(values[m] for m in METRICS))

    def items(self) -> Iterator[tuple[str, T]]:
        """Pairs of metric name and value, in the order of `METRICS`."""
        return ((m, getattr(self, m)) for m in METRICS)

    def map(self, function: Callable[[T], U]) -> "Cost[U]":
        """Apply a function to each of the three values."""
        return Cost(*(function(v) for _, v in self.items()))

    def zip(self, other: "Cost[U]", function: Callable[[T, U], Any]) -> "Cost[Any]":
        """Combine two costs metric by metric."""
        return Cost(*(function(getattr(self, m), getattr(other, m)) for m in METRICS))

    def as_dict(self) -> dict[str, T]:
        """The three values by name."""
        return dict(self.items())


@dataclass(frozen=True)
class Workload:
    """What one pass processes.

    Attributes:
        phase: `prefill` (a classifier's pass is one) or `decode` (one new token per sequence).
        batch_size: Sequences in the batch.
        seq_len: Tokens per sequence that pass through the model; 1 in `decode`.
        context_len: Tokens already in the KV cache (`decode` only).
        param_bits: Storage width of the backbone's weights: 32, 16, 8 or 4.
        adapter: `merged` into the weights, or kept `separate` and paid for in every pass.
    """

    phase: Literal["prefill", "decode"] = "prefill"
    batch_size: int = 1
    seq_len: int = 128
    context_len: int = 0
    param_bits: int = 32
    adapter: Literal["merged", "separate"] = "merged"


FFN_SITES = ("up", "gate", "gate_up", "down")


@dataclass(frozen=True)
class AdapterSite:
    """One kind of linear map that carries a LoRA adapter in every layer.

    Attributes:
        name: Canonical name: `q`, `k`, `v`, `o`, `up`, `gate`, `down`; fused `qkv`, `gate_up`; of latent attention
            `q_down`, `q_up`, `kv_down`, `kv_up`.
        rank: LoRA rank before any rank is removed.
        ends: Inputs and outputs of the map together: those that always stay, and those of each unit (head unit or
            neuron). None where the backbone's shape tells them.
        extra_rows: Rows that a pass sends through the map besides its tokens (relative positions).
    """

    name: str
    rank: int
    ends: tuple[int, int] | None = None
    extra_rows: int = 0

    @property
    def is_ffn(self) -> bool:
        """Whether the site belongs to the feed-forward sub-layer."""
        return self.name in FFN_SITES


@dataclass(frozen=True)
class MapSizes:
    """Weights on one side of a sub-layer's units, and the multiply-adds that they cost each token.

    Attributes:
        fixed_params: Stored values that stay as long as a unit does (latent maps, a key and value shared by all).
        unit_params: Stored values that go with each unit.
        fixed_macs: Multiply-adds per token of the former.
        unit_macs: Multiply-adds per token of the latter; fewer than stored where a token passes few of many experts.
    """

    fixed_params: int
    unit_params: int
    fixed_macs: int
    unit_macs: int


@dataclass(frozen=True)
class SubLayerSizes:
    """Sizes of one sub-layer whose units are head units (attention) or neurons (feed-forward).

    Attributes:
        entry: Maps into the units.
        exit: Maps from the units back to the residual; its fixed values (a bias) stay without any unit.
        norm_params: Stored values beside the maps that stay with the sub-layer.
        scores: Attention: multiply-adds per token, token attended to and unit.
        cache: Attention: cached values per token that always stay, and those of each unit.
        position_macs: Attention: multiply-adds of a pass per relative position and unit, however many tokens.
        position_scores: Attention: multiply-adds per token, relative position and unit.
        positions: Attention: relative positions that a pass projects and compares with.
        window: Attention: most tokens that a decoded one attends to, itself included; 0 for all of them. (A prefill
            computes masked scores as well.)
    """

    entry: MapSizes
    exit: MapSizes
    norm_params: int
    scores: int = 0
    cache: tuple[int, int] = (0, 0)
    position_macs: int = 0
    position_scores: int = 0
    positions: int = 0
    window: int = 0


@dataclass(frozen=True)
class BackboneShape:
    """Sizes of a transformer, as far as they decide what a pass costs.

    Attributes:
        model_id: Name for people and records.
        family: Name of the backbone family, e.g. `bert`.
        n_layers: Transformer blocks.
        hidden: Width of the residual stream.
        n_heads: Query heads per layer.
        n_kv_heads: Head units per layer, on which gates act: groups of query heads with their key and value head;
            where all query heads share one key and value head (which stays), or keys and values come from a latent,
            the query heads one by one.
        head_size: Width of one head.
        ffn_size: Inner neurons of the feed-forward block.
        ffn_matrices: 2 (up, down) or 3 (gate, up, down).
        ffn_blocks: Blocks into which the neurons are divided for gating.
        attention_bias: Whether q, k, v carry a bias.
        output_bias: Whether the attention output projection carries a bias.
        ffn_bias: Whether the feed-forward maps carry a bias.
        norm_params: Parameters of one normalisation layer; each sub-layer has one.
        embedding_params: Parameters in embeddings and their norm.
        head_params: Parameters after the last layer: final norm, pooler, task head.
        head_flops_per_sequence: FLOPs after the last layer that do not grow with the length (pooler, classifier).
        head_flops_per_token: FLOPs after the last layer per token (a language-model head).
        causal: Whether a token sees only earlier ones.
        sites: Adapter sites present in every layer.
        layer_sizes: Attention and feed-forward sizes per layer, where the figures above do not tell them (norms inside
            heads, latent attention, experts, layers of different kinds); empty where they do.
    """

    model_id: str
    family: str
    n_layers: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    ffn_size: int
    ffn_matrices: int
    ffn_blocks: int
    attention_bias: bool
    output_bias: bool
    ffn_bias: bool
    norm_params: int
    embedding_params: int
    head_params: int
    head_flops_per_sequence: int
    head_flops_per_token: int
    causal: bool
    sites: tuple[AdapterSite, ...] = ()
    layer_sizes: tuple[tuple[SubLayerSizes, SubLayerSizes], ...] = ()

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one key and value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def block_size(self) -> int:
        """Neurons in one FFN block."""
        return self.ffn_size // self.ffn_blocks


@dataclass(frozen=True)
class LayerPlan:
    """What one layer keeps; indices refer to the backbone the plan was made for.

    Attributes:
        attention: Whether the attention sub-layer (with its norm) is there at all.
        ffn: Whether the feed-forward sub-layer (with its norm) is there at all.
        heads: Kept KV groups, ascending. May be empty while `attention` is true: then only the output
            projection's bias and the norm remain.
        ffn_blocks: Kept FFN blocks, ascending.
        ranks: Kept rank indices per adapter site, in the order of `BackboneShape.sites`; None keeps all.
    """

    attention: bool
    ffn: bool
    heads: tuple[int, ...]
    ffn_blocks: tuple[int, ...]
    ranks: tuple[tuple[int, ...], ...] | None = None

    @property
    def is_kept(self) -> bool:
        """Whether anything of the layer remains."""
        return self.attention or self.ffn


@dataclass(frozen=True)
class Subnet:
    """A choice of what to keep of a backbone."""

    layers: tuple[LayerPlan, ...]

    def __post_init__(self) -> None:
        if not any(layer.is_kept for layer in self.layers):
            raise SubnetError("The choice keeps no layer at all; at least one sub-layer must remain.")

    @classmethod
    def dense(cls, shape: BackboneShape) -> "Subnet":
        """The whole backbone."""
        return cls.prefix([shape.n_kv_heads] * shape.n_layers, [shape.ffn_blocks] * shape.n_layers)

    @classmethod
    def prefix(cls, heads: Sequence[int], ffn_blocks: Sequence[int]) -> "Subnet":
        """The first so many heads and FFN blocks of each layer; a sub-layer with none is removed.

        Args:
            heads: Kept KV groups per layer, length L.
            ffn_blocks: Kept FFN blocks per layer, length L.
        """
        return cls(
            tuple(
                LayerPlan(bool(h), bool(f), tuple(range(int(h))), tuple(range(int(f))))
                for h, f in zip(heads, ffn_blocks, strict=True)
            )
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Subnet":
        """Inverse of `as_dict`."""
        return cls(
            tuple(
                LayerPlan(
                    bool(layer["attention"]),
                    bool(layer["ffn"]),
                    tuple(layer["heads"]),
                    tuple(layer["ffn_blocks"]),
                    None if layer.get("ranks") is None else tuple(tuple(r) for r in layer["ranks"]),
                )
                for layer in data["layers"]
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return dataclasses.asdict(self)

    @property
    def key(self) -> str:
        """Ten hexadecimal digits that identify the choice; the same in every process."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def kept_layers(self) -> int:
        """Layers of which anything remains."""
        return sum(layer.is_kept for layer in self.layers)

    @property
    def kept_heads(self) -> int:
        """KV groups kept, over all layers."""
        return sum(len(layer.heads) for layer in self.layers if layer.attention)

    @property
    def kept_ffn_blocks(self) -> int:
        """FFN blocks kept, over all layers."""
        return sum(len(layer.ffn_blocks) for layer in self.layers if layer.ffn)


@dataclass(frozen=True)
class DeviceSpec:
    """Facts of a device that its maker or a data sheet tells, before anything is measured.

    Attributes:
        device_id: Canonical name in the catalogue.
        name: Name for people.
        kind: e.g. `gpu`, `phone_soc`, `server_cpu`.
        runtime: Inference runtime that passes run on.
        peak_gflops: Peak rate at the precision the runtime computes in.
        mem_bandwidth_gb_s: Memory bandwidth, 1e9 bytes per second.
        idle_power_w: Power at rest.
        power_cap_w: Limit that no power may exceed; None if unknown.
        threads: Processor threads used, where that is a choice.
    """

    device_id: str
    name: str
    kind: str
    runtime: str
    peak_gflops: float | None
    mem_bandwidth_gb_s: float | None
    idle_power_w: float | None
    power_cap_w: float | None
    threads: int | None = None


@dataclass(frozen=True)
class PaperCost(Generic[T]):
    """Costs of one pass of one batch as counted on paper, comparable between backbones.

    Attributes:
        flops: Floating-point operations, a multiply-add counted as 2.
        weight_bytes: Bytes of weights stored and read.
        act_bytes: Bytes of activations read and written by matrix products and attention.
        kv_bytes: Bytes of keys and values read from and written to a cache.
        n_ops: Sequential kernels.
    """

    flops: T
    weight_bytes: T
    act_bytes: T
    kv_bytes: T
    n_ops: T


PAPER_COSTS = tuple(f.name for f in dataclasses.fields(PaperCost))


@dataclass(frozen=True)
class Trial:
    """A few passes in a row between two readings of the clocks; one that does not count is kept, and says why.

    Attributes:
        round: Number of the round that it was made in, from 0.
        wall_ms: Wall time of a pass.
        cpu_ms: Processor time of a pass.
        problem: Why it does not count; empty if it does.
    """

    round: int
    wall_ms: float
    cpu_ms: float
    problem: str = ""


@dataclass(frozen=True)
class Conditions:
    """Under what conditions a measurement was made; None and empty where nobody can tell.

    Attributes:
        temperature_before_c: Temperature of the chip before the first pass.
        temperature_after_c: Temperature after the last one.
        clock_mhz: Clock during the passes.
        power_mode: Governor, power profile or limit in force.
        is_throttled: Whether the device slowed itself down to stay cool or within its power.
        load_average: Runnable processes on the machine, mean of a minute; the passes' own are among them.
        anchor_key: Configuration that ran along as a yardstick.
        anchor_ms: What the yardstick took meanwhile.
        scale_ms: What it took when it was first measured; latency is given on this scale.
        scale_known_to_pct: Half width of the 95 % interval of the latter; part of what the record claims, and no matter
            between records on one scale.
        anchor_energy_j: Energy that a meter read for the yardstick meanwhile.
        scale_energy_j: What it read first; energy is given on this scale.
        idle_power_after_w: Power at rest after the passes; `idle_power_w` of the record is the mean of both.
        meter_gap_pct: Integrated power by the energy counter's energy, less one, in percent.
    """

    temperature_before_c: float | None = None
    temperature_after_c: float | None = None
    clock_mhz: float | None = None
    power_mode: str = ""
    is_throttled: bool | None = None
    load_average: float | None = None
    anchor_key: str = ""
    anchor_ms: float | None = None
    scale_ms: float | None = None
    scale_known_to_pct: float | None = None
    anchor_energy_j: float | None = None
    scale_energy_j: float | None = None
    idle_power_after_w: float | None = None
    meter_gap_pct: float | None = None


@dataclass(frozen=True)
class ProfileRecord:
    """One measurement: one protocol run of one subnet under one workload on one device.

    `cost` is per batch. None means not measured, never 0. `origin` tells the source of each metric. `known_to_pct` is
    the half width of the 95 % interval around the median latency, `energy_known_to_pct` that of a metered energy, both
    with the scale's; `energy_std_j` is its spread over `n_windows` windows that count; `trials` are all that were made,
    where they were kept.
    """

    device: str
    model_id: str
    subnet_key: str
    workload: Workload
    paper: PaperCost[float]
    cost: Cost[float | None]
    origin: Cost[Origin | None]
    kept_layers: int
    kept_heads: int
    kept_ranks: int
    kept_ffn: int
    n_layers: int
    device_class: str = ""
    runtime: str = ""
    meter: str = ""
    source: str = ""
    n_repeats: int = 1
    latency_std_ms: float | None = None
    mean_power_w: float | None = None
    idle_power_w: float | None = None
    energy_above_idle_j: float | None = None
    cpu_time_ms: float | None = None
    threads: int | None = None
    sampling_period_ms: float | None = None
    is_valid: bool = True
    why_invalid: str = ""
    known_to_pct: float | None = None
    energy_std_j: float | None = None
    energy_known_to_pct: float | None = None
    n_windows: int | None = None
    n_invalid: int | None = None
    conditions: Conditions = Conditions()
    trials: tuple[Trial, ...] | None = None

    def as_row(self) -> dict[str, Any]:
        """One flat row in the public column names of a record store."""
        row = dataclasses.asdict(self)
        for name in ("workload", "paper", "cost", "conditions"):
            row |= row.pop(name)
        known = [o for _, o in self.origin.items() if o is not None]
        row["origin"] = str(Origin.weakest(known)) if known else None
        for metric, origin in self.origin.items():
            row[f"origin_{METRIC_NAMES[metric]}"] = None if origin is None else str(origin)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "ProfileRecord":
        """Inverse of `as_row`; columns it does not know are left to the store."""
        apart = {"workload", "paper", "cost", "origin", "conditions", "trials"}
        names = {f.name for f in dataclasses.fields(cls)} - apart
        whole = row.get("origin")
        trials = row.get("trials")
        return cls(
            workload=Workload(**{f.name: row[f.name] for f in dataclasses.fields(Workload)}),
            paper=PaperCost(**{p: row[p] for p in PAPER_COSTS}),
            cost=Cost[float | None].of({m: row[m] for m in METRICS}),
            origin=Cost(*(_origin(row.get(f"origin_{METRIC_NAMES[m]}"), row[m], whole) for m in METRICS)),
            conditions=Conditions(**{f.name: row[f.name] for f in dataclasses.fields(Conditions) if f.name in row}),
            trials=None if trials is None else tuple(Trial(**trial) for trial in trials),
            **{n: row[n] for n in names if n in row},
        )


def _origin(own: str | None, value: float | None, whole: str | None) -> Origin | None:
    text = own if own is not None else (whole if value is not None else None)
    return None if text is None else Origin(text)
