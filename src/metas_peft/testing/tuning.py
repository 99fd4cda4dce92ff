"""A tuning context around a tiny model: what a method needs to run in a second."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metas_peft.backbones import shape_of
from metas_peft.backbones.load import without_dropout
from metas_peft.core.cost import Cost
from metas_peft.core.protocols import CostModel
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.testing.tiny import tiny_adapted, tiny_model
from metas_peft.tuning.context import GateSettings, Schedule, TuningContext
from metas_peft.tuning.data import Collator, EncodedTexts
from metas_peft.tuning.loop import LoopSettings
from metas_peft.tuning.objectives import Distillation

MARKER = 5  # the token that decides the label
TINY_WORKLOAD = Workload(batch_size=1, seq_len=16)


def tiny_texts(count: int = 96, seed: int = 0, vocabulary: int = 97) -> EncodedTexts:
    """Random texts of 3 to 12 tokens whose label says whether a marker token is among them."""
    rng = np.random.default_rng(seed)
    ids, labels = [], []
    for _ in range(count):
        text = rng.integers(MARKER + 1, vocabulary, rng.integers(3, 13)).tolist()
        label = int(rng.random() < 0.5)
        if label:
            text[int(rng.integers(len(text)))] = MARKER
        ids.append([int(t) for t in text])
        labels.append(label)
    return EncodedTexts(ids, labels)


def tiny_cost_model(
    shape: BackboneShape, workload: Workload = TINY_WORKLOAD, *, per_flop: float = 1.0, per_kernel: float = 1e4
) -> CostModel:
    """A device that pays for operations and for kernels; energy, latency and power are three mixtures of the two."""

    def cost(counts: Counts[Any]) -> Cost[Any]:
        paper = paper_cost(shape, counts, workload)
        busy = per_flop * paper.flops + per_kernel * paper.n_ops
        return Cost(2e-9 * busy + 1e-12 * paper.weight_bytes, 1e-6 * busy + 1e-3, 1e-9 * paper.flops + 1.0)

    return cost


def tiny_loop_settings(**changes: Any) -> LoopSettings:
    """One epoch of small batches in float32."""
    usual: dict[str, Any] = {
        "steps": None, "epochs": 1, "batch_size": 8, "accumulation": 1, "learning_rate": 2e-3, "weight_decay": 0.01,
        "scheduler": "linear", "warmup": 0.1, "bf16": False, "seed": 0,
    }  # fmt: skip
    return LoopSettings(**{**usual, **changes})


def tiny_context(
    family: str = "bert",
    *,
    trains_all: bool = False,
    cost_model: CostModel | None = None,
    path_steps: int = 24,
    joint_steps: int = 4,
    gate_steps: int = 24,
    granularities: Sequence[str] = ("layer", "head", "ffn_block"),
    operating_points: Sequence[float] = (0.8, 0.5, 0.3),
    target_samples: int = 20,
    texts: int = 48,
    seed: int = 0,
    **changes: Any,
) -> TuningContext:
    """A context whose dense stage is still to be trained; nothing in it is measured on a device.

    Args:
        family: Family of the tiny model.
        trains_all: Full fine-tuning instead of adapters.
        cost_model: Cost model of the target; a tiny one by default.
        path_steps: Batches of the path.
        joint_steps: Steps of the joint stage.
        gate_steps: Steps of gates.
        granularities: What `front=gates` gates.
        operating_points: Fractions of the dense FLOPs.
        target_samples: How many subnets a rival measures.
        texts: Training texts.
        seed: Seed of everything.
        **changes: Loop settings that differ from `tiny_loop_settings`, or sizes of the model under `sizes`.
    """
    sizes = changes.pop("sizes", {})
    if trains_all:
        adapted = tiny_model(family, seed, **sizes).requires_grad_(True)
        shape = shape_of(adapted)
    else:
        adapted, shape = tiny_adapted(family, seed=seed, **sizes)
    without_dropout(adapted)
    model = cost_model if cost_model is not None else tiny_cost_model(shape)

    def fit_on_target(subnets: Sequence[Subnet]) -> CostModel:
        return model

    return TuningContext(
        adapted=adapted, shape=shape, data=tiny_texts(texts, seed), collator=Collator(pad_token_id=0),
        settings=tiny_loop_settings(seed=seed, **changes), schedule=Schedule(path_steps, joint_steps),
        distillation=Distillation(), gates=GateSettings(tuple(granularities), 2 / 3, 1e-3, 0.2, gate_steps),
        workload=TINY_WORKLOAD, weights=Cost(1.0, 1.0, 1.0), cost_model=model, fit_on_target=fit_on_target,
        target_samples=target_samples, operating_points=operating_points, seed=seed, progress=False,
    )  # fmt: skip
