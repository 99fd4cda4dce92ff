"""What gates cost: a gated training step against the plain LoRA step, in time and memory.

    python benchmarks/gates/step.py                     # about ten minutes, one thread
    python benchmarks/gates/step.py --only minilm plain # one part of it

Writes docs/benchmarks/gate_step.json. Two backbones: all-MiniLM-L6-v2, and four random layers of the Llama kind (768
wide, 12 heads on 4 KV heads, FFN of 2048), LoRA of rank 8 on every projection, float32, eager attention, 16 texts of
128 random tokens. A step is a forward pass, the loss, a backward pass and AdamW; a gated one draws samples besides,
prices the expected counts by the shipped surrogate on a simulated phone, and steps the log-odds. Every round takes one
step of each kind in shuffled order; told is the median over rounds of processor time by the plain step's of the same
round, with a 95 % interval of that median by bootstrap. The plain step takes part twice: the second is the noise.
Memory is the highest sum of live tensors in a step, weights, gradients and moments included.
"""

import argparse
import random
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from setting import adapted, price_on_phone
from torch.utils._python_dispatch import TorchDispatchMode

from metas_peft.backbones import nested
from metas_peft.core.files import read_json, write_json
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.devices.profiling import describe_machine, describe_software
from metas_peft.gates import GRANULARITIES, GateSet, attach
from metas_peft.tuning.data import Collator, EncodedTexts
from metas_peft.tuning.gating import GateCallback
from metas_peft.tuning.objectives import Distillation, DistilledObjective, TaskObjective, Teacher

RESULT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "gate_step.json"
TEXTS, LENGTH, WARM_UP = 16, 128, 2
DEFAULT = ("layer", "head", "rank")
UNITS = ("head", "ffn_block")
KINDS = {
    "plain again": (), "default": DEFAULT, "units": UNITS, "all six": GRANULARITIES, "held open": DEFAULT,
}  # fmt: skip
DISTILLED = {"plain, distilled": (), "default, distilled": DEFAULT, "prefix views, distilled": ()}
PARTS = {
    "plain": ("plain", list(KINDS)),
    "distilled": ("plain, distilled", ["default, distilled", "prefix views, distilled"]),
}
BOUND = 1.05


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def batch_of(data: EncodedTexts) -> dict[str, torch.Tensor]:
    """All texts at once."""
    return Collator(0)([data[i] for i in range(len(data))])


def build(name: str, kind: str, data: EncodedTexts) -> Callable[[], None]:
    """A function that takes one step of a kind."""
    model, shape = adapted(name)
    model.train()
    network, batch = model.get_base_model(), batch_of(data)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    objective: Any = TaskObjective()
    if kind in DISTILLED:
        teacher = Teacher.record(network, data, Collator(0), hidden=True, bf16=False, progress=False)
        objective = DistilledObjective(network, teacher, Distillation())
        network.train()
    if kind.startswith("prefix"):
        return prefix_step(model, shape, objective, optimizer, batch)
    granularities = {**KINDS, **DISTILLED}.get(kind, ())
    if not granularities:
        return lambda: plain_step(model, objective, optimizer, batch)
    gates = GateSet(shape, granularities)
    attach(gates, model)
    price = price_on_phone(shape, Workload(seq_len=LENGTH))
    args = transformers.TrainingArguments(output_dir="unused", use_cpu=True, report_to=[], learning_rate=1e-4)
    trainer = transformers.Trainer(model, args)
    callback: Any = GateCallback(gates, trainer, learning_rate=0.01, price=price, sparsity=1e-5)
    state = transformers.TrainerState(max_steps=10_000)
    state.global_step = 0 if kind == "held open" else 6_000
    callback.on_train_begin(args, transformers.TrainerState(max_steps=10_000), None)
    callback.on_step_end(args, state, None)

    def step() -> None:
        objective.loss(model, batch).backward()
        callback.on_pre_optimizer_step(args, state, None)
        optimizer.step()
        callback.on_optimizer_step(args, state, None, optimizer=optimizer)
        optimizer.zero_grad()

    return step


def plain_step(model: Any, objective: Any, optimizer: Any, batch: dict[str, torch.Tensor]) -> None:
    """Forward, backward, AdamW."""
    objective.loss(model, batch).backward()
    optimizer.step()
    optimizer.zero_grad()


def prefix_step(model: Any, shape: Any, objective: Any, optimizer: Any, batch: Any) -> Callable[[], None]:
    """The nested front's step at full size: views of every projection, a gate fixed at 1 on each unit."""
    view = nested(model.get_base_model(), shape).__enter__()
    view.activate(Subnet.dense(shape))

    def step() -> None:
        heads, blocks = (
            [torch.ones(n, requires_grad=True) for _ in range(shape.n_layers)]
            for n in (shape.n_kv_heads, shape.ffn_blocks)
        )
        view.set_gates(heads, blocks)
        plain_step(model, objective, optimizer, batch)

    return step


def peak_bytes(step: Callable[[], None], weights: int) -> tuple[int, int]:
    """Highest sum of live tensors in a step (with weights), and the part above what lived before it."""
    step()  # moments exist from here on
    with LiveBytes() as live:
        step()
    return weights + live.most, live.most


def interval(ratios: np.ndarray) -> list[float]:
    """Median and its 95 % interval by bootstrap."""
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    return [round(float(v), 4) for v in (np.median(ratios), *np.quantile(np.median(draws, 1), (0.025, 0.975)))]


def compare(name: str, kinds: list[str], plain: str, rounds: int) -> dict[str, Any]:
    """Time and memory of kinds of steps by a plain one."""
    rng = np.random.default_rng(0)
    data = EncodedTexts([rng.integers(5, 8000, LENGTH).tolist() for _ in range(TEXTS)], [0, 1] * (TEXTS // 2))
    times: dict[str, list[float]] = {kind: [] for kind in (plain, *kinds)}
    steps = {kind: build(name, kind, data) for kind in times}
    memory = {}
    for kind, step in steps.items():
        model, _ = adapted(name)
        size = sum(p.numel() * p.element_size() * (3 if p.requires_grad else 1) for p in model.parameters())
        memory[kind] = peak_bytes(step, size)
    order, shuffle = list(steps), random.Random(0)
    for turn in range(rounds + WARM_UP):
        shuffle.shuffle(order)
        for kind in order:
            started = time.process_time()
            steps[kind]()
            if turn >= WARM_UP:
                times[kind].append(time.process_time() - started)
    base = np.array(times[plain])
    rows = {}
    for kind in kinds:
        middle, low, high = interval(np.array(times[kind]) / base)
        rows[kind] = {
            "time_ratio": middle, "interval": [low, high], "ms": round(1e3 * float(np.median(times[kind])), 1),
            "memory_ratio": round(memory[kind][0] / memory[plain][0], 4),
            "activations_ratio": round(memory[kind][1] / memory[plain][1], 4),
            "granularities": list({**KINDS, **DISTILLED}.get(kind, ())),
        }  # fmt: skip
    return {
        "against": plain, "rounds": rounds, "ms": round(1e3 * float(np.median(base)), 1),
        "mb": round(memory[plain][0] / 1e6, 1), "activations_mb": round(memory[plain][1] / 1e6, 1), "steps": rows,
    }  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", nargs=2, metavar=("BACKBONE", "PART"), help="minilm or llama; plain or distilled")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    every = [(name, part) for name in ("minilm", "llama") for part in PARTS]
    for name, part in [tuple(args.only)] if args.only else every:
        against, kinds = PARTS[part]
        measured = compare(name, kinds, against, args.rounds)
        found = read_json(RESULT) if RESULT.is_file() else {"backbones": {}}
        backbones = found["backbones"]
        backbones[name] = {**backbones.get(name, {}), part: measured}
        write_json(RESULT, {
            "command": "python benchmarks/gates/step.py", "bound": BOUND, "machine": describe_machine(),
            "software": describe_software(), "texts": TEXTS, "tokens": LENGTH, "backbones": backbones,
        })  # fmt: skip
        print(name, against, measured["ms"], "ms", measured["mb"], "MB, activations", measured["activations_mb"])
        for kind, row in measured["steps"].items():
            print(f"  {kind:26} {row['time_ratio']:.3f} {row['interval']} memory {row['memory_ratio']:.3f} "
                  f"activations {row['activations_ratio']:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
