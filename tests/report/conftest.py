"""A made-up run that looks like a real one, for drawing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metas_peft.control.tree import Controller, ControllerTree, run_tag, to_float32
from metas_peft.core.subnet import Subnet

LAYERS, HEADS, BLOCKS = 6, 12, 12
METRICS = ("energy_j", "latency_ms", "peak_power_w")
DENSE_COST = {"energy_j": 0.0427, "latency_ms": 11.8, "peak_power_w": 4.61}
SIMULATED = {"energy": "simulated", "latency": "simulated", "power": "simulated"}
LOCAL = {"energy": "modelled", "latency": "measured", "power": "modelled"}


def member(rng: np.random.Generator, fraction: float, quality: float, *, dense: dict[str, float],
           origin: dict[str, str], name: str, masks: bool = True) -> dict[str, Any]:  # fmt: skip
    """One entry of `front`; costs follow the fraction with a floor, predictions miss by some per cent."""
    share = {"energy_j": 0.06 + 0.94 * fraction, "latency_ms": 0.1 + 0.9 * fraction,
             "peak_power_w": 0.62 + 0.38 * fraction**0.7}  # fmt: skip
    cost = {m: dense[m] * share[m] * float(rng.normal(1, 0.01)) for m in METRICS}
    heads = [int(np.clip(round(HEADS * fraction * w), 0, HEADS)) for w in np.linspace(1.25, 0.7, LAYERS)]
    blocks = [int(np.clip(round(BLOCKS * fraction * w), 0, BLOCKS)) for w in np.linspace(0.75, 1.2, LAYERS)]
    if fraction < 0.3:
        heads[-1] = 0
    entry: dict[str, Any] = {
        "key": f"{int(fraction * 1e9):010x}", "name": name, "quality": quality, **cost, "origin": origin,
        "flops": int(1.36e9 * fraction), "flops_fraction": fraction, "weight_bytes": int(4.7e7 + 4.3e7 * fraction),
        "predicted": {m: cost[m] * float(rng.normal(1.0, 0.03)) for m in METRICS},
        "kept_layers": LAYERS, "kept_heads": sum(heads), "kept_ranks": 288, "kept_ffn": sum(blocks),
        "masked_vs_compact": float(rng.uniform(1e-6, 4e-6)), "adapter_bytes": 612_000,
        "model_bytes": int(4.75e7 + 4.3e7 * fraction),
    }  # fmt: skip
    if masks:
        entry |= {
            "heads": [[int(i < h) for i in range(HEADS)] for h in heads],
            "ffn_blocks": [[int(i < b) for i in range(BLOCKS)] for b in blocks],
            "attention": [int(h > 0) for h in heads],
            "ffn": [int(b > 0) for b in blocks],
        }
    return entry


def front(seed: int, shift: float, *, dense: dict[str, float] = DENSE_COST, origin: dict[str, str] = SIMULATED,
          fractions: tuple[float, ...] = (0.25, 0.33, 0.42, 0.5, 0.6, 0.67, 0.8, 1.0), masks: bool = True,
          dense_quality: float = 0.8933) -> list[dict[str, Any]]:  # fmt: skip
    rng = np.random.default_rng(seed)
    return [
        member(rng, f, round(dense_quality + 0.004 - shift - 0.075 * (1 - f) ** 2.2, 4), dense=dense, origin=origin,
               name=f"{100 * f:.0f} %", masks=masks)
        for f in fractions
    ]  # fmt: skip


def dense_point(cost: dict[str, float], origin: dict[str, str]) -> dict[str, Any]:
    return {"quality": 0.8933, **cost, "origin": origin, "flops": 1.36e9, "weight_bytes": 9.0e7,
            "predicted": {m: v * 1.02 for m, v in cost.items()}}  # fmt: skip


def calibration(seed: int, cost: dict[str, float]) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    points = []
    for i, f in enumerate((0.28, 0.45, 0.55, 0.74, 0.93)):
        on_device = {m: cost[m] * f for m in ("energy_j", "latency_ms")} | {
            "peak_power_w": cost["peak_power_w"] * (0.6 + 0.4 * f)
        }
        predicted = {m: v * float(rng.normal(1, 0.02)) for m, v in on_device.items()}
        points.append({"key": f"cal{i}", "predicted": predicted, "measured": on_device})
    return {"method": "scale and shift per metric", "points": points,
            "alpha": {"energy_j": 1.08, "latency_ms": 0.94, "peak_power_w": 1.01},
            "beta": {"energy_j": 0.0004, "latency_ms": 0.31, "peak_power_w": -0.05}}  # fmt: skip


def realistic_results() -> dict[str, Any]:
    """A whole `results.json`."""
    rng = np.random.default_rng(5)
    local = {"energy_j": 0.41, "latency_ms": 24.6, "peak_power_w": 21.8}
    pool = ("rtx-a6000", "jetson-orin-nx", "macbook-m2", "iphone-15", "raspberry-pi-4")
    usual = {"reference": 9.0, "roofline": 3.4, "log_affine": 6.0, "constant": 38.0}
    return {
        "schema_version": 1,
        "run_id": "proposed-iter1-minilm-SST-2",
        "method": "proposed",
        "backbone": "all-MiniLM-L6-v2",
        "task": "sst2",
        "task_origin": "synthetic",
        "task_source": "built-in opinion sentences, generated",
        "target_device": "pixel-8",
        "target_spec": {"device_id": "pixel-8", "name": "Google Pixel 8 (Tensor G3)"},
        "workload": {"phase": "prefill", "batch_size": 1, "seq_len": 128, "param_bits": 32, "adapter": "merged"},
        "seeds": [0],
        "versions": {"metas-peft": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        "quality_metric": "accuracy",
        "n_validation": 872,
        "chance_quality": 0.5092,
        "measurements": {"training": 0, "calibration": 5, "evaluation": 21},
        "dense": dense_point(DENSE_COST, SIMULATED),
        "front": front(0, 0.0),
        "baselines": {
            "EChorda": {"label": "EChorda-style", "setting": "equal treatment", "target_measurements": 200,
                        "front": front(1, 0.002), "hypervolume": {"useful": 0.1013, "chance": 0.301, "budgets": 0.061},
                        "seconds": 171.0, "note": "Cost model fitted to 200 samples of the target itself."},
            "EChorda, as described": {"label": "EChorda-style", "setting": "as described", "target_measurements": 200,
                                      "front": front(2, 0.017, fractions=(0.35, 0.5, 0.7), masks=False),
                                      "hypervolume": {"useful": 0.0611, "chance": 0.244, "budgets": 0.03},
                                      "seconds": 240.0, "note": ""},
            "drop-top": {"label": "Distilled layer dropping", "setting": "equal treatment", "target_measurements": 0,
                         "front": front(3, 0.012, fractions=(0.33, 0.5, 0.67, 0.83), masks=False),
                         "hypervolume": {"useful": 0.0724, "chance": 0.262, "budgets": 0.041},
                         "seconds": 150.0, "note": "Top layers removed, warm-started and distilled."},
            "static-lora": {"label": "Static LoRA", "setting": "as described", "target_measurements": 0,
                            "front": [dense_point(DENSE_COST, SIMULATED) | {"key": "dense", "name": "100 %"}],
                            "hypervolume": {"useful": 0.0002, "chance": 0.0006, "budgets": 0.0},
                            "seconds": 96.0, "note": ""},
        },
        "hypervolume": {"useful": 0.1069, "chance": 0.3104, "budgets": 0.0662},
        "hypervolume_ratio": {
            "EChorda": {"ratio": 1.055, "low": 0.981, "high": 1.132},
            "EChorda, as described": {"ratio": 1.75, "low": 1.42, "high": 2.31},
            "drop-top": {"ratio": 1.477, "low": 1.21, "high": 1.92},
            "static-lora": {"ratio": 534.0, "low": 201.0, "high": None},
        },
        "budgets": {
            "limits": {"energy_j": 0.025, "latency_ms": 8.0},
            "met": {
                p["name"]: {"energy_j": p["energy_j"] <= 0.025, "latency_ms": p["latency_ms"] <= 8.0}
                for p in front(0, 0.0)
            },
            "notes": ["The energy budget of 6 J never binds: 80 ms at 11 W already cap a pass at 0.88 J."],
        },
        "surrogate": {
            "kind": "roofline",
            "why": "It has the lower mean error on held-out pool devices, 3.6 % against 8.9 % of the reference.",
            "pool": list(pool), "dropped": ["pixel-8"], "n_records": 2400,
            "held_out": {
                d: {k: {m: round(v * float(rng.lognormal(0, 0.25)) * s, 2) for m, s in
                        (("energy", 1.1), ("latency", 1.0), ("power", 0.6))} for k, v in usual.items()}
                for d in pool
            },
        },
        "surrogate_error": {"energy": 2.61, "latency": 2.33, "power": 2.9, "n": 8, "against": "noise-free simulator"},
        "calibration": calibration(1, DENSE_COST),
        "controller": {"bytes": 214, "c_header_bytes": 3310, "decision_us": 4.1, "tree_us": 0.42,
                       "hypervolume_kept": 0.961, "agreement": 0.78, "degenerate": False,
                       "usage": {"25 %": 0.58, "33 %": 0.0, "42 %": 0.0, "50 %": 0.27, "60 %": 0.0, "67 %": 0.15,
                                 "80 %": 0.0, "100 %": 0.0},
                       "note": "The tree keeps less than the 99 % of the volume that the source promises."},
        "ledger": [
            {"device": "pixel-8", "purpose": "training", "count": 0},
            {"device": "pixel-8", "purpose": "calibration", "count": 5},
            {"device": "pixel-8", "purpose": "evaluation", "count": 21},
            {"device": "pool", "purpose": "pool", "count": 2400},
            {"device": "local", "purpose": "calibration", "count": 5},
            {"device": "local", "purpose": "evaluation", "count": 9},
        ],
        "retargets": {
            "local": {
                "dense": dense_point(local, LOCAL), "front": front(7, 0.0, dense=local, origin=LOCAL),
                "calibration": calibration(2, local),
                "measurements": {"training": 0, "calibration": 5, "evaluation": 9},
                "surrogate_error": {"energy": 5.2, "latency": 4.7, "power": 1.8, "n": 8},
                "hypervolume": {"useful": 0.094, "chance": 0.28, "budgets": None},
                "meter": "time.perf_counter; power modelled from utilisation and 15–65 W", "threads": 1,
            }
        },
        "seconds": {"surrogate": 21.4, "tuning": 318.0, "evaluation": 44.0, "total": 391.0, "method": 214.0},
        "notes": ["pixel-8 was listed in the pool and is left out of it: a target may not be seen in training."],
    }  # fmt: skip


def realistic_controller() -> Controller:
    tree = ControllerTree(
        feature=(0, 1, -1, -1, 0, -1, 1, -1, -1),
        threshold=(to_float32(7.31), to_float32(0.11), 0.0, 0.0, to_float32(8.42), 0.0, to_float32(0.27), 0.0, 0.0),
        left=(1, 2, -1, -1, 5, -1, 7, -1, -1),
        right=(4, 3, -1, -1, 6, -1, 8, -1, -1),
        member=(-1, -1, 0, 3, -1, 0, -1, 3, 5),
    )
    entries = realistic_results()["front"]
    members = tuple(Subnet.prefix([sum(r) for r in e["heads"]], [sum(r) for r in e["ffn_blocks"]]) for e in entries)
    return Controller(tree, members, run_tag("proposed-iter1-minilm-SST-2"), tuple(e["name"] for e in entries))


@pytest.fixture
def results() -> dict[str, Any]:
    return realistic_results()


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run's folder from results and, where asked for, a controller."""

    def write(results: dict[str, Any], controller: Controller | None = None) -> Path:
        (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
        if controller is not None:
            (tmp_path / "controller.json").write_text(json.dumps(controller.as_dict()), encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def controller() -> Controller:
    return realistic_controller()
