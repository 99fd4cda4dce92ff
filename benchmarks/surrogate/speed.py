"""How fast the shipped surrogate is: `python benchmarks/surrogate/speed.py`.

Writes docs/benchmarks/surrogate_speed.json. On one thread: loading the shipped file and a first prediction (after
imports), a calibration on five records, predictions in batch, and pricing soft gates with gradients beside a whole
training step of MiniLM (forward and backward of 16 sequences of 64 tokens).
"""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from results import DOCS, rounded
from transformers import BertConfig, BertForSequenceClassification

from metas_peft.core.records import ProfileRecord
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM, Counts, random_prefixes
from metas_peft.devices import Purpose, Specimen, open_device
from metas_peft.surrogate.shipped import shipped

BATCH = 100_000
REPEATS = 15


def median_ms(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median wall time."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times))


def load_and_predict(records: list[ProfileRecord]) -> None:
    shipped.cache_clear()
    model = shipped().fit("metas", records)
    model.predict(records[0].paper, records[0].workload)


def load_and_predict_unseen(record: ProfileRecord) -> None:
    shipped.cache_clear()
    shipped().zero_shot("metas").predict(record.paper, record.workload)


def training_step(network: BertForSequenceClassification) -> None:
    words = torch.randint(0, 30522, (16, 64))
    network(input_ids=words, labels=torch.zeros(16, dtype=torch.long)).loss.backward()
    network.zero_grad()


def main() -> None:
    torch.set_num_threads(1)
    device, workload = open_device("pixel-8"), Workload(seq_len=128)
    specimens = [Specimen(s, MINILM) for s in random_prefixes(MINILM, 5, seed=0)]
    records = device.measure(specimens, workload, purpose=Purpose.CALIBRATION)
    load_and_predict(records)
    model = shipped().fit("metas", records, device.spec)
    rng = np.random.default_rng(0)
    paper = records[0].paper
    many = type(paper)(*(value * rng.uniform(0.1, 1, BATCH) for value in vars(paper).values()))
    layers = MINILM.n_layers
    soft = Counts(
        *(torch.rand(layers, requires_grad=True) for _ in range(2)),
        torch.full((layers,), 6.0, requires_grad=True), torch.full((layers,), 768.0, requires_grad=True),
        torch.zeros(layers, 0),
    )  # fmt: skip
    price = model.bind(MINILM, workload)

    def priced() -> None:
        cost = price(soft)
        (cost.energy_j + cost.latency_ms + cost.peak_power_w).backward()

    network = BertForSequenceClassification(
        BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    )
    batch_ms = median_ms(lambda: model.predict(many, workload))
    price_ms, step_ms = median_ms(priced, 50), median_ms(lambda: training_step(network))
    found = {
        "load_and_predict_once_ms": median_ms(lambda: load_and_predict_unseen(records[0])),
        "load_calibrate_and_predict_once_ms": median_ms(lambda: load_and_predict(records)),
        "calibration_ms": median_ms(lambda: shipped().fit("metas", records, device.spec)),
        "predictions_per_s": BATCH / batch_ms * 1e3,
        "price_with_gradient_ms": price_ms,
        "training_step_ms": step_ms,
        "share_of_step_pct": 100 * price_ms / step_ms,
        "file_bytes": (Path(__file__).parents[2] / "src/metas_peft/surrogate/weights/meta_surrogate_v1.safetensors")
        .stat().st_size,
        "machine": platform.processor() or platform.machine(),
        "threads": 1,
    }  # fmt: skip
    (DOCS / "surrogate_speed.json").write_text(json.dumps(rounded(found), indent=1) + "\n")
    print(json.dumps(rounded(found), indent=1))


if __name__ == "__main__":
    main()
