"""What a study of a thousand trials of Llama-2-7B would cost, from counted FLOPs and named assumptions.

    python benchmarks/study/scaling.py

Nothing is measured here: passes are counted on paper, everything else is an assumption with its name and value in
docs/benchmarks/scaling.json. Change one with `--assume NAME=VALUE` to see what hangs on it.
"""

import argparse
from pathlib import Path

from metas_peft.conf.compose import load
from metas_peft.core.files import write_json
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import SHAPES, Counts, paper_cost

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs" / "benchmarks" / "scaling.json"
RUN = ROOT / "tests" / "data" / "runs" / "proposed-iter1-Llama-2-7B-SST-2.yaml"

ASSUMPTIONS = {
    "trials": 1000,
    "training_examples": 67349,  # SST-2
    "evaluation_examples": 872,
    "holdout_examples": 1000,
    "members": 6,  # default evaluation.operating_points
    "mean_member_share": 0.5,  # FLOPs of a trained member over dense
    "backward_over_forward": 1.0,  # frozen weights: gradients of activations only
    "recompute_over_forward": 1.0,  # activations are computed again in the backward pass
    "peak_tflops": 989.0,  # dense bf16 matrix work of an H100 or H200, data sheet
    "utilisation": 0.4,  # of that peak, while training
    "watts_per_gpu": 700.0,  # data sheet, upper end
    "euros_per_gpu_hour": 2.5,
    "gpus": 64,
    "retained_bytes_per_trial": 2e6,  # results, settings, answers, log (optuna.keep: results)
    "best_bytes": 6 * 7e9 * 4 * 0.5,  # six members in float32, half of dense on the average (optuna.keep: best)
    "journal_bytes_per_trial": 3000,  # parameters, states, values of eight searched keys
    "journal_bytes_per_beat": 120,
    "heartbeat_s": 60.0,
    "repeats": 3,  # seeds per trial, for the figures with repeats
    "pruned_share": 0.67,  # part of the trials that successive halving ends after the first of them
}


def main() -> None:
    """Derive and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assume", nargs="*", default=[], metavar="NAME=VALUE")
    given = dict(item.split("=") for item in parser.parse_args().assume)
    a = ASSUMPTIONS | {name: float(value) for name, value in given.items()}
    found = derive(a)
    if not given:
        write_json(RESULT, {"command": "python benchmarks/study/scaling.py", "assumptions": a, "derived": found})
    for name, value in found.items():
        print(f"{name:32} {value:.4g}")


def derive(a: dict[str, float]) -> dict[str, float]:
    """Every figure of the page, in order."""
    config = load(RUN)
    shape, workload = SHAPES["Llama-2-7B"], Workload(batch_size=1, seq_len=config.dataset.max_length)
    forward = float(paper_cost(shape, Counts.of(Subnet.dense(shape), shape), workload).flops)
    step = forward * (1 + a["backward_over_forward"] + a["recompute_over_forward"])
    training = config.training
    batch = config.dataset.batch_size * training.gradient_accumulation_steps
    dense = training.num_epochs * a["training_examples"] * step
    teacher = a["training_examples"] * forward
    gates = training.gate_steps * batch * step
    joint = training.joint_steps * batch * 2 * step * a["mean_member_share"]
    # Every member answers the held-out examples, and the controller's inputs.
    asked = a["holdout_examples"] + config.controller.inputs
    evaluation = forward * (a["holdout_examples"] + a["members"] * a["mean_member_share"] * asked)
    trial = dense + teacher + gates + joint + evaluation
    rate = a["peak_tflops"] * 1e12 * a["utilisation"]
    hours = trial / rate / 3600
    study = hours * a["trials"]
    beats = hours * 3600 / a["heartbeat_s"]
    repeated = study * a["repeats"]
    saved = a["pruned_share"] * (1 - 1 / a["repeats"])
    small = 1 - (dense + teacher) / trial * (1 - 7000 / a["training_examples"])
    return {
        "forward_tflop_per_sequence": forward / 1e12,
        "dense_pflop": dense / 1e15,
        "teacher_pflop": teacher / 1e15,
        "gates_pflop": gates / 1e15,
        "joint_pflop": joint / 1e15,
        "evaluation_pflop": evaluation / 1e15,
        "trial_pflop": trial / 1e15,
        "dense_share": dense / trial,
        "trial_gpu_hours": hours,
        "study_gpu_hours": study,
        "study_days_on_gpus": study / a["gpus"] / 24,
        "study_mwh": study * a["watts_per_gpu"] / 1e6,
        "study_euros": study * a["euros_per_gpu_hour"],
        "study_gpu_hours_with_repeats": repeated,
        "study_gpu_hours_with_repeats_and_pruning": repeated * (1 - saved),
        "study_gpu_hours_on_7000_examples": study * small,
        "journal_mb": a["trials"] * (a["journal_bytes_per_trial"] + beats * a["journal_bytes_per_beat"]) / 1e6,
        "storage_writes_per_second": a["gpus"] / a["heartbeat_s"],
        "kept_gb": (a["trials"] * a["retained_bytes_per_trial"] + a["best_bytes"]) / 1e9,
        "target_measurements": a["trials"] * (config.surrogate.calibration_samples + a["members"] + 1),
    }


if __name__ == "__main__":
    main()
