"""MetaS-PEFT on the whole of SST-2: dense LoRA, the nested front, and latency measured on this computer.

    python benchmarks/sst2.py --data FOLDER_WITH_SST2 [--seed 0]

Resumable: the run's finished stages are not repeated. The summary goes to docs/benchmarks/sst2_full.json,
the picture of the front to docs/images/front.svg. Nothing is chosen on the 872 validation sentences, which are scored
once per member.
"""

import argparse
import os
import platform
from pathlib import Path

from metas_peft import experiment
from metas_peft.conf.compose import load
from metas_peft.core.files import read_json, write_json
from metas_peft.report import write_picture, write_report

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "benchmarks" / "sst2_full.yaml"
RESULT = ROOT / "docs" / "benchmarks" / "sst2_full.json"
PICTURE = ROOT / "docs" / "images" / "front.svg"
MEMBER_FIELDS = ("name", "quality", "flops_fraction", "energy_j", "latency_ms", "peak_power_w", "origin", "model_bytes")


def member(row: dict) -> dict:
    """The part of a member's row that the summary shows."""
    return {field: row.get(field) for field in MEMBER_FIELDS}


def main() -> None:
    """Run, or go on, and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.parquet and validation.parquet of SST-2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default=str(ROOT / "outputs" / "benchmarks"))
    args = parser.parse_args()
    run_id = f"sst2_full-seed{args.seed}"
    config = load(str(RUN), [f"dataset.path={args.data}", f"training.seed={args.seed}", f"run_id={run_id}"])
    folder = experiment.run(config, Path(args.output) / run_id)
    write_report(folder)
    found = read_json(folder / "results.json")
    local = found["retargets"]["local"]
    dense_ms = local["dense"]["latency_ms"]
    summary = {
        "command": "python benchmarks/sst2.py --data FOLDER_WITH_SST2",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": found["versions"],
        "seed": args.seed,
        "task": found["task"],
        "n_train": found["n_train"],
        "n_validation": found["n_validation"],
        "dense": member({**found["dense"], "name": "dense", "flops_fraction": 1.0}),
        "target": found["target_device"],
        "front": [member(row) for row in found["front"]],
        "local": {
            "dense": member({**local["dense"], "name": "dense", "flops_fraction": 1.0}),
            "front": [member(row) for row in local["front"]],
            "latency_ratio_dense_to_smallest": dense_ms / min(row["latency_ms"] for row in local["front"]),
            "surrogate_error": local["surrogate_error"],
            "threads": local["threads"],
            "protocol": local["protocol"],
        },
        "surrogate_error": found["surrogate_error"],
        "hypervolume": found["hypervolume"],
        "measurements": found["measurements"],
        "seconds": found["seconds"],
    }
    write_json(RESULT, summary)
    write_picture(folder, PICTURE)
    print(f"{RESULT.relative_to(ROOT)}: dense {summary['dense']['quality']:.4f}")
    for row in summary["front"]:
        print(f"  {row['name']:>5}  FLOPs {row['flops_fraction']:.2f}  accuracy {row['quality']:.4f}")
    print(f"  latency, dense / smallest, on this computer: {summary['local']['latency_ratio_dense_to_smallest']:.2f}")


if __name__ == "__main__":
    main()
