"""Twenty random feasible budgets on every simulator and on this computer: do the members that are chosen hold them?

    metas run benchmarks/serving/sst2_7k.yaml dataset.path=FOLDER_WITH_SST2      # the front; ten minutes on two cores
    python benchmarks/serving/deploy.py --run outputs/sst2_7k                    # the simulators: two minutes
    python benchmarks/serving/deploy.py --run outputs/sst2_7k --local 0          # this computer, in parts 0 to 3

Writes docs/benchmarks/deploy.json; each part leaves the others as they are.

A budget is the cost of a random candidate times a random factor between 1 and 1.25 per metric; so at least one
candidate holds it. On a simulator all three metrics have one, and the candidate's cost is the noise-free one; here
latency alone, of one of seven candidates that were measured before, in the same process, on one scale. Each deployment
measures five configurations (counted), calibrates, chooses, and measures the chosen one (counted apart), anew.
`holds` are those whose measurement is inside, `within_3_pct` those whose measurement is no more than 3 % above. For
comparison, `by_prediction` chooses by the predictions themselves instead of by the upper ends of their 80 % intervals,
and is judged by the candidate's cost as the budget was made of it; `quality_lost` is what the chosen one is expected to
be worse than the best that holds the budgets by that cost, in points; not told on this computer, where the cost of most
candidates is not known. Nothing is exported here: what is measured on this computer is the candidate in memory.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from metas_peft.core.cost import METRICS
from metas_peft.core.files import read_json, write_json
from metas_peft.deploy.candidates import FinishedRun, open_run
from metas_peft.deploy.choosing import Choice, choose
from metas_peft.deploy.deciding import decide
from metas_peft.deploy.sources import OpenDevice, Runs
from metas_peft.devices import LOCAL, Device, Purpose, SimulatedDevice, Specimen, TimingRules, catalogue, open_device
from metas_peft.devices.profiling import describe_machine

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs" / "benchmarks" / "deploy.json"
BUDGETS, SLACK, TOLERANCE_PCT, HALF_A_POINT = 20, 0.25, 3.0, 0.5
PARTS, REFERENCES, SECONDS_PER_SUBJECT = 4, 7, 1.5  # on this computer


def truth_of(device: SimulatedDevice, run: FinishedRun) -> np.ndarray:
    """Noise-free costs of all candidates, (N, 3)."""
    costs = device.truth([Specimen(c.subnet, run.shape) for c in run.candidates], run.workload)
    return np.array([[v for _, v in c.items()] for c in costs])


def draw(reference: np.ndarray, metrics: tuple[str, ...], rng: np.random.Generator) -> dict[str, float]:
    """A budget that some candidate holds."""
    place = int(rng.integers(len(reference)))
    return {m: float(reference[place, METRICS.index(m)] * rng.uniform(1.0, 1.0 + SLACK)) for m in metrics}


def deployment(run: FinishedRun, source: OpenDevice, budgets: dict, reference: np.ndarray, seed: int) -> dict:
    """One deployment without its files: what was spent, chosen and measured."""
    before = source.ledger.count(source.device, Purpose.CALIBRATION)
    decision = decide(run, budgets, source, seed)
    spent = source.ledger.count(source.device, Purpose.CALIBRATION) - before
    row = {"budgets": budgets, "measurements_before_choosing": spent}
    choice = decision.choice
    if not isinstance(choice, Choice):
        return row | {"chosen": None, "worst_over_pct": None}
    chosen = run.candidates[choice.index]
    record = source.verify(chosen, Path(chosen.subnet.key))
    assert record is not None
    measured = record.cost.as_dict()
    inside = (reference[:, [METRICS.index(m) for m in budgets]] <= list(budgets.values())).all(1)
    is_known = np.isfinite(reference[:, [METRICS.index(m) for m in budgets]]).all()
    best = max(c.quality for c, holds in zip(run.candidates, inside, strict=True) if holds) if is_known else None
    predicted = decision.middle[choice.index]
    plain = choose([c.quality for c in run.candidates], [c.flops_fraction for c in run.candidates], decision.middle,
                   decision.middle, budgets)  # fmt: skip
    return row | {
        "chosen": chosen.name,
        "inside_by": choice.by,
        "measured": {m: measured[m] for m in budgets},
        "predicted": {m: float(predicted[METRICS.index(m)]) for m in budgets},
        "worst_over_pct": max(100 * (measured[m] / v - 1) for m, v in budgets.items()),
        "quality_lost": None if best is None else 100 * (best - chosen.quality),
        # Judged where the candidate's cost is known.
        "by_prediction": None if not isinstance(plain, Choice) or np.isinf(reference[plain.index]).all() else {
            "chosen": run.candidates[plain.index].name,
            "worst_over_pct": max(
                float(100 * (reference[plain.index, METRICS.index(m)] / v - 1)) for m, v in budgets.items()
            ),
            "quality_lost": None if best is None else 100 * (best - run.candidates[plain.index].quality),
        },
    }  # fmt: skip


def summary(rows: list[dict]) -> dict:
    """Counts over the budgets of one device."""
    worst = [r["worst_over_pct"] for r in rows]
    plain = [r["by_prediction"] for r in rows if r.get("by_prediction")]
    lost, plain_lost = (
        [r["quality_lost"] for r in some if r.get("quality_lost") is not None] for some in (rows, plain)
    )
    errors = [abs(r["predicted"][m] / r["measured"][m] - 1) * 100 for r in rows if r["chosen"] for m in r["budgets"]]
    return {
        "budgets": len(rows),
        "measurements_before_choosing": sorted({r["measurements_before_choosing"] for r in rows}),
        "refused": sum(w is None for w in worst),
        "holds": sum(w is not None and w <= 0 for w in worst),
        "within_3_pct": sum(w is not None and w <= TOLERANCE_PCT for w in worst),
        "worst_over_pct": max((w for w in worst if w is not None), default=None),
        "mean_quality_lost": float(np.mean(lost)) if lost else None,
        "within_half_a_point": sum(x <= HALF_A_POINT for x in lost) if lost else None,
        "mean_error_of_chosen_pct": float(np.mean(errors)) if errors else None,
        "by_prediction": {
            "holds": sum(p["worst_over_pct"] <= 0 for p in plain),
            "within_3_pct": sum(p["worst_over_pct"] <= TOLERANCE_PCT for p in plain),
            "worst_over_pct": max((p["worst_over_pct"] for p in plain), default=None),
            "mean_quality_lost": float(np.mean(plain_lost)) if plain_lost else None,
            "within_half_a_point": sum(x <= HALF_A_POINT for x in plain_lost) if plain_lost else None,
        },
    }


def on_simulator(run: FinishedRun, name: str, scratch: Path) -> list[dict]:
    """All budgets on one simulator."""
    rows, rng = [], np.random.default_rng([7, *name.encode()])
    for number in range(BUDGETS):
        device: Device = open_device(name)
        assert isinstance(device, SimulatedDevice)
        reference = truth_of(device, run)
        source = OpenDevice(device, run.shape, run.workload, Runs("hf", scratch, 1), seed=10 * number)
        rows.append(deployment(run, source, draw(reference, METRICS, rng), reference, number))
    return rows


def on_this_computer(run: FinishedRun, scratch: Path, part: int) -> list[dict]:
    """A part of the budgets on this computer, on a scale of its own."""
    device = open_device(
        LOCAL, threads=1, power="meter-or-modelled", rules=TimingRules(seconds_per_subject=SECONDS_PER_SUBJECT)
    )
    runs = _InMemory(Runs("hf", scratch, 1), run)
    places = np.unique(np.linspace(0, len(run.candidates) - 1, REFERENCES).round().astype(int))
    known = [run.candidates[i] for i in places]
    specimens = [Specimen(c.subnet, run.shape, runs.of(c.subnet.key, c.open)) for c in known]
    records = device.measure(specimens, run.workload, purpose=Purpose.POOL, seed=99 + part)
    reference = np.full((len(run.candidates), len(METRICS)), np.inf)
    reference[places, 1] = [r.cost.latency_ms for r in records]
    rng = np.random.default_rng([7, part])
    rows: list[dict] = []
    for number in range(part, BUDGETS, PARTS):
        source = OpenDevice(device, run.shape, run.workload, runs, seed=10 * number)
        budget = draw(reference[places], ("latency_ms",), rng)
        rows.append({"budget": number, **deployment(run, source, budget, reference, number)})
        print(number, rows[-1]["chosen"], rows[-1]["worst_over_pct"], flush=True)
    return rows


class _InMemory(Runs):
    """Runs of candidates that are not exported first: the weights are the same, and the files were tested elsewhere."""

    def __init__(self, runs: Runs, run: FinishedRun) -> None:
        super().__init__(runs.kind, runs.scratch, runs.threads)
        object.__setattr__(self, "_open", {c.subnet.key: c.open for c in run.candidates})

    def exported(self, artefact: Path) -> object:
        return self.of(artefact.name, self._open[artefact.name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the finished run")
    parser.add_argument("--local", type=int, choices=range(PARTS), help="a part of the budgets on this computer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = open_run(args.run)
    found = read_json(RESULT) if RESULT.exists() else {"devices": {}}
    found |= {
        "command": "python benchmarks/serving/deploy.py --run outputs/sst2_7k [--local 0..3]",
        "front": "metas run benchmarks/serving/sst2_7k.yaml dataset.path=FOLDER_WITH_SST2",
        "candidates": len(run.candidates),
        "tolerance_pct": TOLERANCE_PCT,
    }
    with tempfile.TemporaryDirectory() as name:
        if args.local is not None:
            earlier = found["devices"].get(LOCAL, {}).get("rows", [])
            rows = [r for r in earlier if r["budget"] % PARTS != args.local]
            rows = sorted([*rows, *on_this_computer(run, Path(name), args.local)], key=lambda r: r["budget"])
            found["devices"][LOCAL] = {
                "origin": "measured",
                "machine": describe_machine(),
                **summary(rows),
                "rows": rows,
            }
            write_json(RESULT, found)
            print(LOCAL, summary(rows))
            return
        for device in catalogue():
            started = time.monotonic()
            rows = on_simulator(run, device, Path(name))
            found["devices"][device] = {"origin": "simulated", **summary(rows), "rows": rows}
            write_json(RESULT, found)
            print(device, summary(rows), f"{time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
