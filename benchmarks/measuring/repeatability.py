"""Do two rounds agree? 30 gate configurations of MiniLM on this computer, measured twice by separate processes.

`python benchmarks/measuring/repeatability.py` (about three minutes) writes `repeatability.json` beside this file: the
difference of each configuration between the rounds, as timed and after one common rescaling by the anchor (the dense
model, which runs in every round), by wall clock and by processor time; load, threads, versions; and the noise floor,
the median difference after rescaling. A round that is there already is not run again; `--fresh` starts over.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metas_peft.core.files import read_json, write_json
from metas_peft.core.records import ProfileRecord
from metas_peft.core.store import RecordStore
from metas_peft.core.workload import Workload
from metas_peft.devices import TimingRules, open_device
from metas_peft.devices.configurations import draw_configurations
from metas_peft.devices.profiling import describe_machine, describe_software, profile

RESULT = Path(__file__).with_suffix(".json")
STORE = Path(__file__).parents[2] / "outputs" / "repeatability"
ROUNDS = (1, 2)
TARGET_PCT = 3.0


def measure(store: Path, number: int, options: argparse.Namespace) -> None:
    """One round, in a process of its own: new models, new device, new scale, another order."""
    from metas_peft.cli.local_models import LocalModels

    rules = TimingRules(seconds_per_subject=options.seconds)
    device = open_device("local", threads=options.threads, power="modelled", rules=rules)
    models = LocalModels("minilm", runtime=device.spec.runtime, threads=options.threads)
    subnets = draw_configurations(models.shape, options.count, seed=0)
    specimens = [models.specimen(subnet) for subnet in subnets]
    # One call, so that a round is one run of the protocol and its records one part file.
    started = time.monotonic()
    done = profile(device, specimens, workload(options), RecordStore(store), seed=number, label=f"round {number}",
                   group=len(specimens))  # fmt: skip
    if done.measured:
        write_json(store / f"round-{number}.json", {"seconds": time.monotonic() - started})


def workload(options: argparse.Namespace) -> Workload:
    return Workload(batch_size=options.batch_size, seq_len=options.seq_len)


def agreement(store: Path, options: argparse.Namespace) -> dict[str, Any]:
    """How far the rounds differ, in percent."""
    found = RecordStore(store).read()
    labels = [row["label"] for row in found.rows()]
    rounds = [
        {r.subnet_key: r for r, label in zip(found.profile_records(), labels, strict=True) if label == f"round {n}"}
        for n in ROUNDS
    ]
    keys = [k for k in rounds[0] if k in rounds[1]]
    anchor = next(iter(rounds[0].values())).conditions.anchor_key
    first, second = ([r[k] for k in keys] for r in rounds)
    records = [*first, *second]
    result = {
        "machine": describe_machine(),
        "software": describe_software(),
        "model": first[0].model_id,
        "workload": {"batch_size": options.batch_size, "seq_len": options.seq_len},
        "configurations": len(keys),
        "threads": options.threads,
        "seconds_per_configuration": options.seconds,
        "round_seconds": [_seconds(store / f"round-{n}.json") for n in ROUNDS],
        "load_average": [max(r.conditions.load_average or 0.0 for r in own) for own in (first, second)],
        "anchor_ms": [min(r.conditions.anchor_ms or 0.0 for r in own) for own in (first, second)],
        "anchor_ms_most": [max(r.conditions.anchor_ms or 0.0 for r in own) for own in (first, second)],
        "median_known_to_pct": float(np.median([_ratio_known_to_pct(r) for r in records])),
        "cut_short": sum("stopped at the time limit" in r.source for r in records),
        "invalid_trials": sum(r.n_invalid or 0 for r in records),
        "trials": sum(len(r.trials or ()) for r in records),
        "wall": {},
        "cpu": {},
        "rows": [],
    }
    index = keys.index(anchor)
    for name, values in (("wall", _wall), ("cpu", _cpu)):
        a, b = values(first), values(second)
        raw = 100.0 * np.abs(b / a - 1.0)
        rescaled = 100.0 * np.abs((b / b[index]) / (a / a[index]) - 1.0)
        result[name] = {"as_timed": _spread(raw), "rescaled": _spread(np.delete(rescaled, index))}
    for key, one, two in zip(keys, first, second, strict=True):
        result["rows"].append(
            {
                "subnet_key": key,
                "flops": one.paper.flops,
                "latency_ms": [one.cost.latency_ms, two.cost.latency_ms],
                "cpu_time_ms": [one.cpu_time_ms, two.cpu_time_ms],
                "known_to_pct": [_ratio_known_to_pct(one), _ratio_known_to_pct(two)],
            }
        )
    result["noise_floor_pct"] = result["wall"]["rescaled"]["median"]
    result["target_pct"] = TARGET_PCT
    result["is_met"] = result["noise_floor_pct"] <= TARGET_PCT
    return result


def _seconds(note: Path) -> float | None:
    """How long a round took, where it was noted."""
    return round(read_json(note)["seconds"], 1) if note.exists() else None


def _ratio_known_to_pct(record: ProfileRecord) -> float:
    """Without the scale's part: rescaling by the anchor takes that away."""
    scale_pct = record.conditions.scale_known_to_pct or 0.0
    return float(np.sqrt(max(0.0, (record.known_to_pct or 0.0) ** 2 - scale_pct**2)))


def _wall(records: Sequence[ProfileRecord]) -> np.ndarray:
    return np.array([r.cost.latency_ms for r in records], dtype=float)


def _cpu(records: Sequence[ProfileRecord]) -> np.ndarray:
    return np.array([r.cpu_time_ms for r in records], dtype=float)


def _spread(percents: np.ndarray) -> dict[str, float]:
    return {
        "median": float(np.median(percents)),
        "p90": float(np.percentile(percents, 90)),
        "most": float(percents.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=30, help="configurations, the dense one included")
    parser.add_argument("--seconds", type=float, default=2.4, help="time limit per configuration")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--store", type=Path, default=STORE, help="where the rounds are kept")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--fresh", action="store_true", help="measure both rounds again")
    parser.add_argument("--round", type=int, choices=ROUNDS, help="measure one round and leave (used by this script)")
    options = parser.parse_args()
    if options.round is not None:
        measure(options.store, options.round, options)
        return
    if options.fresh and options.store.exists():
        shutil.rmtree(options.store)
    for number in ROUNDS:
        command = [sys.executable, __file__, *sys.argv[1:], "--round", str(number)]
        subprocess.run([a for a in command if a != "--fresh"], check=True, env=os.environ)
    result = agreement(options.store, options)
    write_json(options.out, result)
    print(f"{result['configurations']} configurations, load {result['load_average']}, {options.threads} thread(s)")
    for name in ("wall", "cpu"):
        raw, fair = result[name]["as_timed"], result[name]["rescaled"]
        print(f"{name}: as timed {raw['median']:.1f} % (90 %: {raw['p90']:.1f}), rescaled {fair['median']:.1f} % "
              f"(90 %: {fair['p90']:.1f})")  # fmt: skip
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
