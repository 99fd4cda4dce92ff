"""Keep the figures of a finished demonstration: a summary, and the picture of its front.

    make demo && python benchmarks/demo.py

Writes docs/benchmarks/demo.json and docs/images/demo.svg.
"""

import argparse
import os
import platform
from pathlib import Path

from metas_peft.core.files import read_json, write_json
from metas_peft.report import write_picture

ROOT = Path(__file__).resolve().parents[1]
FIELDS = ("name", "quality", "energy_j", "latency_ms", "peak_power_w", "origin", "flops_fraction", "model_bytes")
KEPT = (
    "task", "task_origin", "backbone", "target_device", "quality_metric", "n_train", "n_validation", "chance_quality",
    "measurements", "hypervolume", "hypervolume_ratio", "surrogate_error", "controller", "seconds", "versions",
)  # fmt: skip


def row(member: dict) -> dict:
    """The part of a member that the summary shows."""
    return {field: member[field] for field in FIELDS if field in member}


def main() -> None:
    """Write the summary and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default=str(ROOT / "outputs" / "demo"), help="folder of the finished demonstration")
    run = Path(parser.parse_args().run)
    found = read_json(run / "results.json")
    summary = {
        "command": "make demo && python benchmarks/demo.py",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        **{key: found[key] for key in KEPT},
        "dense": row(found["dense"]),
        "front": [row(member) for member in found["front"]],
        "baselines": {
            name: {
                "label": rival["label"],
                "target_measurements": rival["target_measurements"],
                "hypervolume": rival["hypervolume"],
                "front": [row(member) for member in rival["front"]],
            }
            for name, rival in found["baselines"].items()
        },
        "retargets": {
            device: {
                "dense": row(block["dense"]),
                "front": [row(member) for member in block["front"]],
                "measurements": block["measurements"],
                "surrogate_error": block["surrogate_error"],
                "threads": block["threads"],
                "protocol": block["protocol"],
            }
            for device, block in found["retargets"].items()
        },
    }
    write_json(ROOT / "docs" / "benchmarks" / "demo.json", summary)
    write_picture(run, ROOT / "docs" / "images" / "demo.svg")


if __name__ == "__main__":
    main()
