"""Public records as tracks: what was counted of each pass, what it cost, and which devices are held out together.

The folder of the records is given by the environment variable METAS_DATA; it holds `profiles/*.parquet`. Records stay
outside the repository. Two of the sources carry no licence: only errors made on them are kept here, as a comparison.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metas_peft.surrogate.prior import Habits
from metas_peft.surrogate.terms import Group, Role, Schema, Term

METRICS = ("energy_j", "latency_ms", "peak_power_w")


@dataclass(frozen=True)
class Track:
    """Records of one source, N rows.

    Attributes:
        name: Of the track.
        schema: Of the terms.
        sets: Names of the sets that are tested one by one.
        row_set: Index into `sets` per row, shape (N,).
        hardware: Hardware of each set; sets of the same hardware are held out together.
        terms: Counted terms, shape (N, K).
        logs: Log energy (J), latency (ms), power (W); NaN where not measured, shape (N, 3).
        metrics: Metrics that were measured.
        note: What a reader must know.
        habits: Of the simulated devices that `metas` learns from: how coarse and how additive such readings are.
    """

    name: str
    schema: Schema
    sets: tuple[str, ...]
    row_set: np.ndarray
    hardware: tuple[str, ...]
    terms: np.ndarray
    logs: np.ndarray
    metrics: tuple[str, ...]
    note: str = ""
    habits: Habits = Habits()

    def rows(self, name: str) -> np.ndarray:
        """Rows of a set."""
        return np.flatnonzero(self.row_set == self.sets.index(name))

    def training_sets(self, held_out: str) -> list[str]:
        """Sets of other hardware."""
        own = self.hardware[self.sets.index(held_out)]
        return [s for s, h in zip(self.sets, self.hardware, strict=True) if h != own]

    def base(self) -> np.ndarray:
        """Terms of the roofline, each divided by its mean over all rows, shape (N, base terms)."""
        found = self.terms @ self.schema.base_matrix()
        return found / found.mean(0)

    def flops(self) -> np.ndarray:
        """What designs are spread over, shape (N,)."""
        return self.terms @ self.schema.base_matrix()[:, 1]


def load(name: str) -> Track:
    """A track by name: `protran`, `hat_latency`, `wilkins_llm`, `mlenergy_llm`."""
    folder = os.environ.get("METAS_DATA")
    if not folder:
        raise SystemExit("METAS_DATA is not set; let it name the folder that holds profiles/*.parquet.")
    return LOADERS[name](pd.read_parquet(Path(folder) / "profiles" / f"{name}.parquet").reset_index(drop=True))


def _logs(frame: pd.DataFrame, power: str = "peak_power_w") -> np.ndarray:
    return np.log(frame[["energy_j", "latency_ms", power]].to_numpy(dtype=float))


def _track(
    name: str, schema: Schema, columns: dict[str, np.ndarray], sets: pd.Series, hardware: Callable[[str], str],
    logs: np.ndarray, note: str = "", habits: Habits | None = None,
) -> Track:  # fmt: skip
    names = tuple(sorted(sets.unique()))
    terms = np.stack([np.asarray(columns[t], dtype=float) for t in schema.names], axis=1)
    measured = tuple(m for m, known in zip(METRICS, np.isfinite(logs).any(0), strict=True) if known)
    index = sets.map({n: i for i, n in enumerate(names)}).to_numpy()
    return Track(name, schema, names, index, tuple(map(hardware, names)), terms, logs, measured, note,
                 habits or Habits())  # fmt: skip


def _shares(columns: dict[str, np.ndarray], kinds: dict[str, tuple[float, float]], group: str) -> list[Term]:
    """Terms of a group, in proportion to what they count; `kinds` adds centre and spread per kind."""
    means = {kind: float(np.mean(columns[kind])) for kind in kinds}
    total = sum(means.values())
    return [Term(kind, group, float(np.log(means[kind] / total)) + c, s) for kind, (c, s) in kinds.items()]


def protran(frame: pd.DataFrame) -> Track:
    """FlexiBERT encoders, operations counted by kind; whole processes timed, coarsely quantised."""
    columns = {
        "constant": np.ones(len(frame)),
        "f_ffn": frame.f_ffn, "f_proj": frame.f_proj, "f_attn": frame.f_attn, "f_rel": frame.f_rel + 1,
        "f_fft": frame.f_fft + 1, "f_conv": frame.f_conv + 1,
        "body_params": frame.n_params_noemb, "embedding_params": frame.n_params - frame.n_params_noemb,
        "act_bytes": frame.act_bytes, "n_ops": frame.n_ops,
        "n_conv": frame.n_c5 + frame.n_c9 + frame.n_c13, "n_linear": frame.n_dft + frame.n_dct,
        "n_wma": frame.n_wma, "n_sdp": frame.n_sdp, "unfold": frame.conv_unfold + 1,
        "layers": frame.n_layers, "ff_layers": frame.ff_layers,
        "width": frame.hidden_per_layer.map(lambda text: float(np.mean(json.loads(text)))),
    }  # fmt: skip
    columns = {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    compute = {"f_ffn": (0.0, 0.0), "f_proj": (0.0, 0.3), "f_attn": (0.6, 0.6), "f_rel": (0.6, 0.6),
               "f_fft": (1.5, 1.2), "f_conv": (1.5, 1.2)}  # fmt: skip
    small = ("n_conv", "n_linear", "n_wma", "n_sdp", "unfold")
    schema = Schema(
        terms=(
            Term("constant", "constant"),
            *_shares(columns, compute, "compute"),
            *_shares(columns, {"body_params": (0.0, 0.0), "embedding_params": (0.0, 0.7)}, "weights"),
            Term("act_bytes", "activations"),
            Term("n_ops", "kernels"),
            *(Term(name, name) for name in (*small, "layers", "ff_layers")),
            Term("width", "width"),
        ),
        groups=(
            Group("constant", Role.CONSTANT, -0.3, 1.5),
            Group("compute", Role.COMPUTE, 0.5, 1.5),
            Group("weights", Role.MEMORY, -0.8, 1.5),
            Group("activations", Role.MEMORY, -1.0, 1.5),
            Group("kernels", Role.OVERHEAD, -1.0, 1.5),
            *(Group(name, Role.OVERHEAD, -3.0, 1.3) for name in small),
            Group("layers", Role.OVERHEAD, -2.5, 1.5),
            Group("ff_layers", Role.OVERHEAD, -2.5, 1.5),
            Group("width", Role.NOBODY, 0.0, 0.0),
        ),
        base=(("constant",), tuple(compute), ("body_params", "embedding_params"), ("act_bytes",), ("n_ops",)),
        squared=(2,),
        width="width",
        cliff=2,
    )
    return _track("protran", schema, columns, frame.device, lambda device: device, _logs(frame))


def hat_latency(frame: pd.DataFrame) -> Track:
    """Encoder-decoders that translate a sentence token by token; latency only, three machines, eight sets."""
    layers = frame.decoder_layer_num.to_numpy(dtype=float)
    width, inner = frame.decoder_embed_dim, frame.decoder_ffn_embed_dim_avg
    columns = {
        "constant": np.ones(len(frame)), "encoder_flops": frame.flops_encoder, "decoder_layers": layers,
        "decoder_ffn": layers * width * inner, "decoder_projections": layers * width * width,
        "decoder_width": layers * width, "decoder_heads": layers * frame.decoder_self_attention_heads_avg,
        "cross_heads": layers * frame.decoder_ende_attention_heads_avg,
        "cross_reach": layers * frame.decoder_arbitrary_ende_attn_avg, "decoder_flops": frame.flops_decoder,
        "encoder_ffn": frame.encoder_ffn_embed_dim_avg, "encoder_heads": frame.encoder_self_attention_heads_avg,
    }  # fmt: skip
    prior = {
        "constant": (Role.CONSTANT, -0.5, 1.5), "encoder_flops": (Role.OVERHEAD, -0.5, 2.0),
        "decoder_layers": (Role.COMPUTE, 0.8, 2.5), "decoder_ffn": (Role.MEMORY, 0.0, 2.0),
        "decoder_projections": (Role.MEMORY, -0.3, 2.0), "decoder_width": (Role.MEMORY, -2.0, 1.5),
        "decoder_heads": (Role.COMPUTE, -3.0, 1.3), "cross_heads": (Role.COMPUTE, -3.0, 1.3),
        "cross_reach": (Role.MEMORY, -2.5, 1.3), "decoder_flops": (Role.MEMORY, -0.5, 2.0),
        "encoder_ffn": (Role.OVERHEAD, -3.0, 1.2), "encoder_heads": (Role.OVERHEAD, -3.5, 1.2),
    }  # fmt: skip
    schema = Schema(
        terms=tuple(Term(name, name) for name in prior),
        groups=tuple(Group(name, role, centre, spread) for name, (role, centre, spread) in prior.items()),
        base=(("constant",), ("encoder_flops",), ("decoder_layers",), ("decoder_ffn",), ("decoder_width",),
              ("cross_reach",)),
        squared=(),
        ridge=0.002,
        least_spread=0.02,
    )  # fmt: skip
    # Medians of many passes of one process: clean, nothing swaps or is read in steps.
    habits = Habits(
        cliff=0.0, swell=0.0, throttle=0.0, bend=(0.03, 0.06), tilt=0.015, quantised=0.0, noise=(0.015, 0.01, 0.01)
    )
    sets = frame.device + " " + frame.task
    hardware = dict(zip(sets, frame.device, strict=True))
    return _track("hat_latency", schema, columns, sets, lambda name: hardware[name], _logs(frame), "", habits)


_SERVING = Schema(
    terms=(
        Term("constant", "constant"), Term("flops", "compute"), Term("weight_traffic", "weights"),
        Term("weight_bytes", "stored"), Term("steps", "kernels"),
    ),
    groups=(
        Group("constant", Role.CONSTANT, -1.0, 1.5), Group("compute", Role.COMPUTE, 0.5, 1.5),
        Group("weights", Role.MEMORY, 0.5, 1.5), Group("stored", Role.MEMORY, -1.5, 1.5),
        Group("kernels", Role.OVERHEAD, -0.5, 1.5),
    ),
    base=(("constant",), ("flops",), ("weight_traffic",), ("weight_bytes",), ("steps",)),
    squared=(1,),
)  # fmt: skip


def wilkins_llm(frame: pd.DataFrame) -> Track:
    """Whole calls of language models of 7B and more on A100 and V100; power is the mean of a call."""
    frame = frame[~frame.is_duplicate & (frame.energy_j > 0) & (frame.latency_ms > 0)].reset_index(drop=True)
    steps = frame.output_tokens.to_numpy(dtype=float)
    columns = {
        "constant": np.ones(len(frame)), "flops": frame.flops, "weight_traffic": frame.weight_bytes * steps,
        "weight_bytes": frame.weight_bytes, "steps": frame.n_layers * steps,
    }  # fmt: skip
    note = "no licence: errors only; mean power in place of peak; repeated rows and negative energies left out"
    return _track("wilkins_llm", _SERVING, columns, frame.device, lambda d: d, _logs(frame, "mean_power_w"), note)


def mlenergy_llm(frame: pd.DataFrame) -> Track:
    """Serving of language models on B200 and H100, per output token; power is the mean."""
    batch = frame.batch_size.to_numpy(dtype=float)
    columns = {
        "constant": np.ones(len(frame)), "flops": frame.flops * batch / frame.n_gpus,
        "weight_traffic": frame.weight_bytes * frame.n_active_params / frame.n_params / frame.n_gpus,
        "weight_bytes": frame.weight_bytes / frame.n_gpus, "steps": batch,
    }  # fmt: skip
    note = "no licence: errors only; mean power in place of peak; per output token"
    return _track("mlenergy_llm", _SERVING, columns, frame.device, lambda d: d, _logs(frame, "mean_power_w"), note)


LOADERS: dict[str, Callable[[pd.DataFrame], Track]] = {
    "protran": protran,
    "hat_latency": hat_latency,
    "wilkins_llm": wilkins_llm,
    "mlenergy_llm": mlenergy_llm,
}
