"""At which temperatures do gates train, from which start, and by which price?

    METAS_DATA=FOLDER python benchmarks/gates/temperature.py     # about fifteen minutes, one thread

Writes docs/benchmarks/gate_temperature.json; a run that is in it is not repeated. all-MiniLM-L6-v2 with LoRA of rank 8,
3,000 examples of SST-2, 150 dense steps once, then 200 steps under gates on layers, heads and FFN blocks from that same
start, distilled from the dense model (the usual warm-up and ramp). Afterwards units are ranked by E[z] and the lowest
masked until 67 and 50 % of the FLOPs are left; accuracy is that of 300 held-out training examples (standard error about
2 points), with no training after the choice. `P` starts every gate with P(z > 0) = 0.95, `E` with E[z] = 0.8. A price
by P sees the expected counts, a price by E the expected values in their place.
"""

import argparse
from typing import Any

import numpy as np
import torch
import transformers
from setting import adapted, price_on_phone
from step import RESULT as STEP_RESULT

from metas_peft.backbones.load import load_backbone
from metas_peft.core.files import read_json, write_json
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.core.workload import Workload
from metas_peft.devices.profiling import describe_machine, describe_software
from metas_peft.gates import GateSet, GateValues, gated, hard_concrete, masked
from metas_peft.tasks import load_task
from metas_peft.tuning.context import GateSettings
from metas_peft.tuning.data import Collator, EncodedTexts, predict
from metas_peft.tuning.loop import LoopSettings, fit
from metas_peft.tuning.methods.gates import GatesObjective
from metas_peft.tuning.objectives import Distillation, DistilledObjective, TaskObjective, Teacher
from metas_peft.tuning.pricing import Price, flops_fraction

RESULT = STEP_RESULT.with_name("gate_temperature.json")
GATED = ("layer", "head", "ffn_block")
TRAIN, HELD_OUT, DENSE_STEPS, GATE_STEPS, GATE_RATE = 3000, 300, 150, 200, 0.05
POINTS = (0.67, 0.5)
RUNS = [
    *[(beta, "P", "P") for beta in (2 / 3, 0.5, 2.0, 5.0)],
    *[(beta, "E", "E") for beta in (2 / 3, 0.5, 2.0, 5.0)],
    *[(beta, "E", "P") for beta in (5.0, 2.0)],
]
WORKLOAD = Workload(seq_len=32)


class Bench:
    """One dense model, from which every run starts."""

    def __init__(self) -> None:
        self.model, self.shape = adapted("minilm")
        tokenizer = load_backbone("minilm", n_labels=2).tokenizer
        data = load_task("sst2", train_limit=TRAIN, seed=0)

        def encoded(texts: Any, labels: Any) -> EncodedTexts:
            return EncodedTexts(tokenizer(list(texts), truncation=True, max_length=64)["input_ids"], labels)

        self.train = encoded(data.train.texts, data.train.labels)
        self.held_out = encoded(data.holdout.texts[:HELD_OUT], data.holdout.labels[:HELD_OUT])
        self.collator = Collator(tokenizer.pad_token_id)
        self.network = self.model.get_base_model()
        self.fit(TaskObjective(), DENSE_STEPS, 1e-3, "dense")
        self.start = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        self.teacher = Teacher.record(self.network, self.train, self.collator, hidden=True, bf16=False, progress=False)
        self.price = price_on_phone(self.shape, WORKLOAD)

    def fit(self, objective: Any, steps: int, rate: float, title: str, **gates: Any) -> None:
        """Train with the usual settings."""
        settings = LoopSettings(
            steps=steps, epochs=1, batch_size=16, accumulation=1, learning_rate=rate, weight_decay=0.01,
            scheduler="linear", warmup=0.06, bf16=False, seed=0,
        )  # fmt: skip
        fit(self.model, self.train, self.collator, objective, settings, title=title, progress=False, **gates)

    def accuracy(self, subnet: Subnet | None = None) -> float:
        """On the held-out examples, under a mask or whole."""
        with masked(self.network, self.shape, subnet or Subnet.dense(self.shape)):
            logits = predict(self.network, self.held_out, self.collator)
        return round(float((logits.argmax(-1) == torch.tensor(self.held_out.labels)).float().mean()), 4)

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the dense model."""
        for name, parameter in self.model.named_parameters():
            if name in self.start:
                parameter.copy_(self.start[name])

    def gates(self, beta: float, start: str) -> GateSet:
        """Gates at a temperature, from a start."""
        gates = GateSet(self.shape, GATED, temperature=beta, start=0.8, seed=0)
        if start == "P":
            with torch.no_grad():
                for log_alpha in gates.log_alpha.values():
                    log_alpha.fill_(hard_concrete.log_alpha_for(0.95, beta))
        return gates

    def run(self, beta: float, start: str, by: str) -> dict[str, Any]:
        """Train gates and look at what they chose."""
        self.reset()
        gates = self.gates(beta, start)
        started = self.gates(beta, start)
        before = started.expectations()
        price = PriceByProbability(gates, self.price) if by == "P" else self.price
        distilled = DistilledObjective(self.network, self.teacher, Distillation())
        objective = Noted(gates, distilled, price, GateSettings(GATED, beta, 0.0, GATE_RATE, GATE_STEPS))
        with gated(self.network, self.shape, objective.draw, GATED):
            self.fit(objective, GATE_STEPS, 5e-4, "gates", gates=list(gates.parameters()), gate_rate=GATE_RATE)
        now = gates.expectations()
        found = {
            "temperature": round(beta, 4), "start": start, "price": by,
            "start_p": float(started.probabilities().head[0, 0].detach()),
            "start_e": round(float(before.head[0, 0]), 4),
            "loss_under_open_gates": round(float(np.mean(objective.open)), 4),
            "loss_in_the_first_gated_steps": round(float(np.mean(objective.gated[:10])), 4),
            "loss_in_the_last_steps": round(float(np.mean(objective.gated[-20:])), 4),
            "moved": round(max(float((getattr(now, n) - getattr(before, n)).abs().max()) for n in GATED), 4),
            "e_spread": {n: round(float(getattr(now, n).std()), 4) for n in GATED},
            "price_end": round(float(self.price(gates.expected_counts())), 4),
        }  # fmt: skip
        for point in POINTS:
            subnet = self.choose(now, point)
            found[f"accuracy_at_{100 * point:g}"] = self.accuracy(subnet)
        return found

    def choose(self, values: GateValues, point: float) -> Subnet:
        """The units of the highest expected value that fit."""
        heads, blocks = values.head * values.layer[:, None], values.ffn_block * values.layer[:, None]
        for level in torch.cat([heads.flatten(), blocks.flatten()]).unique().tolist():
            subnet = mask_above(heads, blocks, level)
            if flops_fraction(subnet, self.shape, WORKLOAD) <= point:
                return subnet
        raise AssertionError("unreachable: nothing is left above the highest level")


def mask_above(heads: torch.Tensor, blocks: torch.Tensor, level: float) -> Subnet:
    """What lies above a level."""
    plans = []
    for h, f in zip(heads > level, blocks > level, strict=True):
        kept = [tuple(m.nonzero().flatten().tolist()) for m in (h, f)]
        plans.append(LayerPlan(bool(kept[0]), bool(kept[1]), *kept))
    return Subnet(tuple(plans))


class PriceByProbability:
    """The price of the expected counts, in the place of that of what the expected gates add up to."""

    def __init__(self, gates: GateSet, price: Price) -> None:
        self._gates, self._price = gates, price

    def __call__(self, counts: Any) -> Any:
        """A scalar, differentiable."""
        return self._price(self._gates.expected_counts())

    def after_step(self, counts: Any) -> None:
        """Nothing to learn."""


class Noted(GatesObjective):
    """The objective of `front=gates` that remembers its distilled losses."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.open: list[float] = []
        self.gated: list[float] = []
        inner = self._distilled
        outer = self

        class Noting:
            def loss(self, model: Any, batch: Any) -> torch.Tensor:
                loss = inner.loss(model, batch)
                (outer.open if outer._is_held_open else outer.gated).append(float(loss.detach()))
                return loss

        self._distilled = Noting()  # type: ignore[assignment]


def main() -> None:
    """Train what is missing and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    found = read_json(RESULT) if RESULT.is_file() else {"runs": []}
    done = {(r["temperature"], r["start"], r["price"]) for r in found["runs"]}
    missing = [run for run in RUNS if (round(run[0], 4), *run[1:]) not in done]
    bench = Bench() if missing else None
    for run in missing:
        assert bench is not None
        row = bench.run(*run)
        if "dense_accuracy" not in found:
            bench.reset()
            found["dense_accuracy"] = bench.accuracy()
        found = {
            "command": "METAS_DATA=FOLDER python benchmarks/gates/temperature.py", "machine": describe_machine(),
            "software": describe_software(), "held_out": HELD_OUT, "steps": GATE_STEPS, "gate_learning_rate": GATE_RATE,
            **{k: v for k, v in found.items() if k in ("dense_accuracy",)}, "runs": [*found["runs"], row],
        }  # fmt: skip
        write_json(RESULT, found)
        print(row, flush=True)


if __name__ == "__main__":
    main()
