"""Which way to a front is best at equal compute? Judged on sentences that nothing is trained on.

    python benchmarks/study/sentences.py --data FOLDER --output SENTENCES
    python benchmarks/gates/fronts.py --data SENTENCES     # two or three minutes per row, one thread
    python benchmarks/gates/fronts.py --data SENTENCES --decoder

Writes docs/benchmarks/fronts.json; a row that is in it is not made again. all-MiniLM-L6-v2 with LoRA of rank 8 on the
whole sentences of SST-2 but a tenth, three dense epochs once; every row starts from that model and ends with the same
joint, distilled training of the members that it chose. Accuracy and divergence from the dense model (4 KL at
temperature 2, as in training) are those of the held-out tenth; the standard error of an accuracy is about 1.3 points,
the divergence is a far steadier measure. The price is that of a simulated Pixel 8.

With `--decoder`, into fronts_decoder.json: a Llama of four layers, eight heads in four key-value groups and gated FFN
neurons, trained whole from random weights, because no decoder with weights is at hand. It is far less accurate than a
pretrained model; what it shows is that groups and gated neurons go the same way.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from setting import adapted, price_on_phone, small_decoder
from step import RESULT as STEP_RESULT

from metas_peft.backbones.load import load_backbone
from metas_peft.core.cost import Cost
from metas_peft.core.files import read_json, write_json
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts
from metas_peft.devices.profiling import describe_machine, describe_software
from metas_peft.gates import network_of
from metas_peft.tasks import load_task
from metas_peft.tuning.context import GateSettings, Schedule, TuningContext
from metas_peft.tuning.data import Collator, EncodedTexts, predict
from metas_peft.tuning.kernels import keep_kernels
from metas_peft.tuning.loop import LoopSettings
from metas_peft.tuning.methods import METHODS, TunedFront
from metas_peft.tuning.methods.gates import gates_front
from metas_peft.tuning.methods.nested import nested_front
from metas_peft.tuning.objectives import Distillation
from metas_peft.tuning.pricing import flops_fraction

FOLDER = STEP_RESULT.parent
WORKLOAD = Workload(seq_len=32)
POINTS = (0.67, 0.5, 0.34, 0.26)
JOINT = 300
DECODER_EPOCHS, DECODER_RATE = 5, 5e-4
ROWS: dict[str, dict[str, Any]] = {
    "nested": {},
    "uniform width": {"rule": "uniform-width"},
    "nested, other batches": {"seed": 5},
    "uniform width, other batches": {"rule": "uniform-width", "seed": 5},
    "gates on heads and blocks, 200 steps": {"gates": ("head", "ffn_block"), "steps": 200},
    "top layers dropped": {"rule": "drop-top"},
    "alternate layers dropped": {"rule": "drop-alternate"},
    "gates on heads, blocks and ranks of separate adapters, 200 steps": {
        "gates": ("head", "ffn_block", "rank"),
        "steps": 200,
        "adapter": "separate",
    },
}
DECODER_ROWS = {name: row for name, row in ROWS.items() if "gates" not in row}


class Bench:
    """One dense model, from which every row starts."""

    def __init__(self, data: Path, *, is_decoder: bool) -> None:
        self.model, self.shape = small_decoder() if is_decoder else adapted("minilm")
        epochs, rate = (DECODER_EPOCHS, DECODER_RATE) if is_decoder else (3, 1e-3)
        tokenizer = load_backbone("minilm", n_labels=2).tokenizer
        task = load_task("sst2", path=data / "sst2")

        def encoded(texts: Any, labels: Any) -> EncodedTexts:
            return EncodedTexts(tokenizer(list(texts), truncation=True, max_length=128)["input_ids"], labels)

        self.held_out = encoded(task.holdout.texts, task.holdout.labels)
        self.collator = Collator(tokenizer.pad_token_id, limit=128)
        self.network = network_of(self.model)
        self.prices = {
            adapter: price_on_phone(self.shape, replace(WORKLOAD, adapter=adapter))
            for adapter in ("merged", "separate")
        }
        self.context = TuningContext(
            adapted=self.model, shape=self.shape, data=encoded(task.train.texts, task.train.labels),
            collator=self.collator,
            settings=LoopSettings(None, epochs, 32, 1, rate, 0.01, "linear", 0.05, True, 0),
            schedule=Schedule(240, JOINT), distillation=Distillation(),
            gates=GateSettings(("head", "ffn_block"), 2 / 3, 1e-5, 0.05, 200), workload=WORKLOAD,
            weights=Cost(1.0, 1.0, 1.0), cost_model=self.prices["merged"].cost_model,
            fit_on_target=lambda _: self.prices["merged"].cost_model, target_samples=0, operating_points=POINTS, seed=0,
        )  # fmt: skip
        self.context.train_dense()
        self.context.prepare()
        self.dense = predict(self.network, self.held_out, self.collator)
        self.labels = torch.tensor(self.held_out.labels)
        self.start = self.judge(self.network)

    def judge(self, model: Any) -> dict[str, float]:
        """Accuracy, and divergence from the dense model."""
        logits = predict(model, self.held_out, self.collator)
        divergence = F.kl_div(
            F.log_softmax(logits / 2, -1), F.log_softmax(self.dense / 2, -1), log_target=True, reduction="batchmean"
        )
        return {
            "accuracy": round(float((logits.argmax(-1) == self.labels).float().mean()), 4),
            "divergence": round(4 * float(divergence), 4),
        }

    def run(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make one front and judge its members."""
        start = time.monotonic()
        with self.changed(row):
            front = self.front(row)
        seconds = time.monotonic() - start
        members = [
            {
                # Of a model whose adapters are merged, whatever the row's members were cut by.
                "flops_fraction": round(flops_fraction(m.subnet, self.shape, WORKLOAD), 4),
                "heads": [len(plan.heads) for plan in m.subnet.layers],
                "ffn_blocks": [len(plan.ffn_blocks) for plan in m.subnet.layers],
                "ranks": ranks_of(m.subnet, self.shape),
                **self.judge(m.model),
            }
            for m in front.members
        ]
        return {"seconds": round(seconds, 1), "members": members}

    def front(self, row: dict[str, Any]) -> TunedFront:
        """By a path, by gates or by a rule."""
        if "rule" in row:
            return METHODS[row["rule"]]().tune(self.context)
        price = self.prices[row.get("adapter", "merged")]
        return (gates_front if "gates" in row else nested_front)(self.context, price)

    @contextmanager
    def changed(self, row: dict[str, Any]) -> Iterator[None]:
        """What a row does differently: settings of the gates, batches of the path, adapters that stay separate."""
        context = self.context
        usual = context.settings, context.gates, context.workload
        context.workload = replace(WORKLOAD, adapter=row.get("adapter", "merged"))
        context.settings = replace(context.settings, seed=row.get("seed", 0))
        context.gates = replace(
            context.gates, granularities=row.get("gates", ("head", "ffn_block")), steps=row.get("steps", 200)
        )
        try:
            yield
        finally:
            context.settings, context.gates, context.workload = usual


def ranks_of(subnet: Subnet, shape: BackboneShape) -> int:
    """Ranks of all adapters that a member keeps."""
    counts = Counts.of(subnet, shape)
    return round(float(counts.ranks.sum()))


def main() -> None:
    """Make the rows that are missing and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what sentences.py has written")
    parser.add_argument("--decoder", action="store_true", help="a small decoder in place of MiniLM")
    args = parser.parse_args()
    keep_kernels()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    path, rows = FOLDER / "fronts.json", ROWS
    if args.decoder:
        path, rows = FOLDER / "fronts_decoder.json", DECODER_ROWS
    found = read_json(path) if path.is_file() else {"rows": {}}
    missing = [name for name in rows if name not in found["rows"]]
    bench = Bench(args.data, is_decoder=args.decoder) if missing else None
    for name in missing:
        assert bench is not None
        found["rows"][name] = bench.run(rows[name])
        write_json(path, {
            "command": "python benchmarks/gates/fronts.py --data SENTENCES" + " --decoder" * args.decoder,
            "machine": describe_machine(), "software": describe_software(), "held_out": len(bench.held_out),
            "joint_steps": JOINT, "dense": bench.start, "rows": found["rows"],
        })  # fmt: skip
        print(name, found["rows"][name], flush=True)


if __name__ == "__main__":
    main()
