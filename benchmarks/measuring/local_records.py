"""Records of MiniLM on this computer, crossed over length, batch, threads, number format and runtime.

`python benchmarks/measuring/local_records.py` measures 8 configurations in each of 60 settings, 480 records, into
`benchmarks/records/minilm-local/`: lengths 32, 64, 128; batches 1, 8; threads 1, 2; float32, bfloat16 and int8 by
torch, float32 and int8 by ONNX Runtime (whose processor kernels have no bfloat16). It takes about 20 minutes on two
quiet processors; with others at work, two threads wait for each other and say little. What the store has is not
measured again: an interrupted run goes on with the same command. `--list` shows what is there and what is missing,
`--settings 2 --count 2 --store DIR` tries it out.

Latency is measured; energy and power are modelled from processor time where the machine has no meter, and say so.
"""

import argparse
import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from metas_peft.cli.local_models import LocalModels
from metas_peft.core.store import RecordStore
from metas_peft.core.workload import Workload
from metas_peft.devices import TimingRules, open_device
from metas_peft.devices.configurations import draw_configurations
from metas_peft.devices.profiling import profile

STORE = Path(__file__).parents[1] / "records" / "minilm-local"
LENGTHS, BATCHES, THREADS = (128, 64, 32), (1, 8), (1, 2)
FORMATS = (
    ("pytorch_cpu", 32),
    ("pytorch_cpu", 16),
    ("pytorch_cpu", 8),
    ("onnxruntime_cpu", 32),
    ("onnxruntime_cpu", 8),
)


@dataclass(frozen=True)
class Setting:
    """What all configurations of a group share."""

    runtime: str
    threads: int
    workload: Workload

    def __str__(self) -> str:
        work = self.workload
        return f"{self.runtime} {work.param_bits}-bit, {self.threads} thread(s), {work.batch_size} x {work.seq_len}"


def settings() -> list[Setting]:
    """All of them; threads and runtime change least often, because they need new models."""
    return [
        Setting(runtime, threads, Workload(batch_size=batch, seq_len=length, param_bits=bits))
        for threads, (runtime, bits), length, batch in itertools.product(THREADS, FORMATS, LENGTHS, BATCHES)
    ]


def measure(chosen: Sequence[Setting], store: RecordStore, options: argparse.Namespace) -> None:
    rules = TimingRules(seconds_per_subject=options.seconds)
    models: dict[tuple[str, int], LocalModels] = {}
    bar = tqdm(chosen, unit="setting")
    for setting in bar:
        bar.set_postfix_str(str(setting))
        key = (setting.runtime, setting.threads)
        if key not in models:
            models.clear()  # one set of exported files at a time
            models[key] = LocalModels("minilm", runtime=setting.runtime, threads=setting.threads)
        device = open_device(
            "local", runtime=setting.runtime, threads=setting.threads, power=options.power, rules=rules
        )
        subnets = draw_configurations(models[key].shape, options.count, seed=0)
        specimens = [models[key].specimen(subnet) for subnet in subnets]
        done = profile(device, specimens, setting.workload, store, group=len(specimens))
        for subnet, why in done.failed.items():
            print(f"{setting}, {subnet}: {why}")


def show(store: RecordStore) -> None:
    """What the store has, per setting."""
    rows = store.read().rows() if store.parts() else []
    counts = Counter(
        (r["runtime"], r["param_bits"], r["threads"], r["batch_size"], r["seq_len"])
        for r in rows
        if r["is_valid"] is not False
    )
    for setting in settings():
        work = setting.workload
        key = (setting.runtime, work.param_bits, setting.threads, work.batch_size, work.seq_len)
        print(f"{counts[key]:3d}  {setting}")
    print(f"{sum(counts.values()):3d}  valid records of {len(rows)} in {store.path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--count", type=int, default=8, help="configurations per setting, the dense one included")
    parser.add_argument("--seconds", type=float, default=2.5, help="time limit per configuration")
    parser.add_argument("--settings", type=int, help="only the first so many settings")
    parser.add_argument("--power", default="modelled", help="modelled, meter, or the name of a meter")
    parser.add_argument("--list", action="store_true", help="show what is there and leave")
    options = parser.parse_args()
    store = RecordStore(options.store)
    if not options.list:
        logging.getLogger("metas_peft").setLevel(logging.ERROR)
        measure(settings()[: options.settings], store, options)
    show(store)


if __name__ == "__main__":
    main()
