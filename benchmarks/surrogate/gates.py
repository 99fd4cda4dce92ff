"""Gate configurations, clean passes: every simulator against its noise-free truth, and the records of this computer.

    python benchmarks/surrogate/gates.py

writes docs/benchmarks/surrogate_gates.json. Each device of the catalogue is the unseen one in turn. `metas` is the
shipped surrogate, which no device of the catalogue had a part in; the roofline, the source's network and the log-affine
line learn from the other simulators. Five configurations out of 150 are measured with the simulator's repeat noise (2 %
at most); all others are tested against the noise-free truth. `oracle` knows the true shape of the device's costs and
fits scale and shift of it to the same five measurements. Records of real hardware stand apart: 8 configurations in each
of 60 settings; per setting five are measured and three tested, across settings five of those that share runtime,
threads and number format, whatever their length and batch. Two threads share two processors with whatever else runs
there, so that one thread is shown apart. Tested is the latency of the wall clock and of the processor clock, beside how
well its median is known.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from results import DOCS, rounded

from metas_peft.core.cost import Cost
from metas_peft.core.errors import InvalidRecordError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.store import RecordStore
from metas_peft.core.workload import Workload
from metas_peft.costs import LLAMA_2_7B, MINILM, ROBERTA_BASE, SHAPES, Counts, random_prefixes
from metas_peft.devices import Purpose, Specimen, open_device
from metas_peft.devices.loading import catalogue
from metas_peft.surrogate import MetaTrained, design, fit_scale_shift, project, shipped, simulate_pool
from metas_peft.surrogate.assess import calibrated
from metas_peft.surrogate.design import d_optimal
from metas_peft.surrogate.features import Table
from metas_peft.surrogate.meta import meta_train
from metas_peft.surrogate.nonnegative import fit_nonnegative
from metas_peft.surrogate.rivals import Constant, LogAffine, pool_fits
from metas_peft.surrogate.roofline import RooflineKind, additive_terms

SETTINGS = (
    (MINILM, Workload(seq_len=128)),
    (MINILM, Workload(seq_len=32)),
    (ROBERTA_BASE, Workload(seq_len=128)),
    (ROBERTA_BASE, Workload(seq_len=128, batch_size=8, param_bits=16)),
    (LLAMA_2_7B, Workload(seq_len=256, param_bits=4)),
    (LLAMA_2_7B, Workload(phase="decode", seq_len=1, context_len=256, param_bits=4)),
)
CONFIGURATIONS = 150
DRAWS = 20  # of random points
DESIGNED_DRAWS = 6  # designs do not vary, only the noise of what is measured
CURVE_DRAWS = 3
DESIGNS = ("random", "quantiles", "d_optimal")
CURVE = (0, 1, 3, 5, 10, 20)
RECORDS = Path(__file__).resolve().parents[1] / "records" / "minilm-local"
LOCAL_METHODS = ("metas", "roofline", "constant")
METHODS = ("metas", "roofline", "reference", "log_affine", "constant", "oracle")


def choose(table: Table, papers: Sequence, k: int, way: str, seed: int) -> np.ndarray:
    """Calibration rows by a design."""
    if way == "d_optimal":
        terms = additive_terms(torch.from_numpy(table.features)).numpy()
        return np.array(d_optimal(terms / terms.mean(0), k))
    return np.array(design(papers, k, way, seed=seed))


def errors_of(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return 100 * np.abs(predicted / truth - 1)


def simulators(seed: int = 0) -> dict:
    """Errors per device, design and method; mean over settings and draws."""
    devices = {name: open_device(name) for name in catalogue()}
    specs = {name: device.spec for name, device in devices.items()}
    pool = Table.of(simulate_pool(list(devices.values()), list(SHAPES.values()), seed=seed), InvalidRecordError)
    learnt = shipped()
    trained = meta_train(pool, list(devices), seed=seed, n_seeds=2)
    references = dict(zip(devices, trained, strict=True))
    found: dict = {}
    for name, device in devices.items():
        roofline = RooflineKind.learn(pool.without(name), specs)
        others = pool_fits(roofline, pool.without(name))
        rows: dict[str, dict[str, list]] = {d: {m: [] for m in METHODS} for d in DESIGNS}
        inside: list[np.ndarray] = []
        curve: dict[int, dict[str, list]] = {k: {"metas": [], "roofline": []} for k in CURVE}
        worst = 0.0
        for shape, workload in SETTINGS:
            subnets = random_prefixes(shape, CONFIGURATIONS, seed=seed + 3)
            result = device.simulate(shape, Counts.stack(subnets, shape), workload)
            if result.is_swapping.any():
                continue
            truth = np.stack([result.energy_j, result.latency_ms, result.peak_power_w], axis=1)
            specimens = [Specimen(subnet, shape) for subnet in subnets]
            for draw in range(DRAWS):
                records = device.measure(specimens, workload, purpose=Purpose.EVALUATION, seed=1000 * seed + draw)
                table = Table.of(records, InvalidRecordError)
                for way in DESIGNS if draw < DESIGNED_DRAWS else ("random",):
                    chosen = choose(table, [r.paper for r in records], 5, way, draw)
                    tested = np.setdiff1d(np.arange(len(table)), chosen)
                    columns = torch.from_numpy(table.features[tested])
                    few = [records[i] for i in chosen]
                    part = table.take(chosen)
                    ours = learnt.fit("metas", few, device.spec)
                    oracle = fit_scale_shift(truth[chosen], part.costs)
                    cap = device.spec.power_cap_w
                    predictions = {
                        "metas": project(ours.predictor(columns), cap),
                        "roofline": calibrated(roofline, part, device.spec)(columns),
                        "reference": calibrated(references[name], part, device.spec)(columns).detach(),
                        "log_affine": LogAffine.fit(part, others)(columns),
                        "constant": Constant.fit(part)(columns),
                        "oracle": oracle.apply(torch.from_numpy(truth[tested])),
                    }
                    for method, predicted in predictions.items():
                        rows[way][method].append(errors_of(predicted.numpy(), truth[tested]).mean(0))
                    if way != "d_optimal":
                        width = ours.predictor.log_half_width(columns).numpy()
                        off = np.abs(np.log(table.costs[tested] / predictions["metas"].numpy()))
                        inside.append((off <= width).mean(0))
                if draw < CURVE_DRAWS:
                    for k in CURVE:
                        papers = [r.paper for r in records]
                        chosen = choose(table, papers, k, "random", draw) if k else np.array([], dtype=int)
                        tested = np.setdiff1d(np.arange(len(table)), chosen)
                        few, columns = [records[i] for i in chosen], torch.from_numpy(table.features[tested])
                        for kind in ("metas", "roofline"):
                            if k == 1 and kind == "roofline":
                                continue
                            model = learnt.fit(kind, few, device.spec) if k else learnt.zero_shot(kind, device.spec)
                            said = project(model.predictor(columns), device.spec.power_cap_w).numpy()
                            curve[k][kind].append(errors_of(said, truth[tested]).mean(0))
            worst = max(worst, max(np.mean(rows["quantiles"]["metas"][-DESIGNED_DRAWS:], axis=0)))
        means = {d: {m: np.mean(e, axis=0) for m, e in by.items()} for d, by in rows.items()}
        found[name] = {
            "errors": {d: {m: v.tolist() for m, v in by.items()} for d, by in means.items()},
            "by_oracle": {d: (by["metas"] / by["oracle"]).tolist() for d, by in means.items()},
            "inside_80": np.mean(inside, axis=0).tolist(),
            "worst_setting": worst,
            "curve": {
                str(k): {kind: np.mean(e, axis=0).tolist() for kind, e in by.items() if e} for k, by in curve.items()
            },
            "draws": len(rows["random"]["metas"]),
        }
        print(name, json.dumps(rounded({d: [by["metas"], by["roofline"], by["oracle"]] for d, by in means.items()}, 2)),
              "ratio", rounded(found[name]["by_oracle"], 2), "inside", rounded(found[name]["inside_80"], 2),
              file=sys.stderr)  # fmt: skip
    return found


def _groups(records: Iterable[ProfileRecord], key: Callable[[ProfileRecord], object]) -> list[list[ProfileRecord]]:
    groups: dict[object, list[ProfileRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return list(groups.values())


def _clock(record: ProfileRecord, is_cpu: bool) -> ProfileRecord:
    """The record with the processor's time in place of the wall clock's, where asked for."""
    latency = record.cpu_time_ms if is_cpu else record.cost.latency_ms
    return dataclasses.replace(record, cost=Cost(record.cost.energy_j, latency, record.cost.peak_power_w))


def _in_sample(groups: Sequence[Sequence[ProfileRecord]]) -> float:
    """Error of processor time of a roofline fitted to all records of each group: what these terms can tell at best."""
    found = []
    for group in groups:
        table = Table.of([_clock(r, True) for r in group], InvalidRecordError)
        terms = additive_terms(torch.from_numpy(table.features)).numpy()
        latency = table.costs[:, 1]
        found.append(np.mean(errors_of(terms @ fit_nonnegative(terms, latency, 1e-4), latency)))
    return float(np.mean(found))


def local(learnt: MetaTrained) -> dict:
    """Latency errors on this computer's records, per setting and across settings, wall and processor clock."""
    records = [r for r in RecordStore(RECORDS).read().profile_records() if r.cpu_time_ms]
    alone = [r for r in records if r.threads == 1]
    scopes = {
        "per setting": (records, lambda r: (r.runtime, r.threads, r.workload)),
        "per setting, one thread": (alone, lambda r: (r.runtime, r.workload)),
        "across settings": (records, lambda r: (r.runtime, r.threads, r.workload.param_bits)),
        "across settings, one thread": (alone, lambda r: (r.runtime, r.workload.param_bits)),
    }
    out: dict = {"records": len(records)}
    for scope, (chosen_records, key) in scopes.items():
        groups = _groups(chosen_records, key)
        out[scope] = {"groups": len(groups), "all_own_records_in_sample": _in_sample(groups)}
        for clock in ("wall", "cpu"):
            rows: dict[str, dict[str, list[float]]] = {d: {m: [] for m in LOCAL_METHODS} for d in DESIGNS}
            for number, group in enumerate(groups):
                own = [_clock(r, clock == "cpu") for r in group]
                table = Table.of(own, InvalidRecordError)
                for way in DESIGNS:
                    for draw in range(DRAWS if way == "random" else 1):
                        chosen = choose(table, [r.paper for r in own], 5, way, 100 * number + draw)
                        tested = np.setdiff1d(np.arange(len(own)), chosen)
                        few, columns = [own[i] for i in chosen], torch.from_numpy(table.features[tested])
                        part = table.take(chosen)
                        fits = {kind: learnt.fit(kind, few).predictor(columns) for kind in ("metas", "roofline")}
                        fits["constant"] = Constant.fit(part)(columns)
                        for method, predicted in fits.items():
                            said = predicted.numpy()[:, 1]
                            rows[way][method].append(float(np.mean(errors_of(said, table.costs[tested, 1]))))
            out[scope][clock] = {d: {m: float(np.mean(e)) for m, e in by.items() if e} for d, by in rows.items()}
            print(scope, clock, rounded(out[scope][clock], 2), file=sys.stderr)
    known = [r.known_to_pct for r in records if r.known_to_pct is not None]
    out["noise_floor"] = {
        "median_known_to_pct": float(np.median(known)), "p90_known_to_pct": float(np.quantile(known, 0.9)),
    }  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("simulators", "local"))
    parser.add_argument("--out", type=Path, default=DOCS / "surrogate_gates.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = json.loads(options.out.read_text()) if options.out.exists() else {}
    out["settings"] = {
        "configurations": CONFIGURATIONS, "draws": DRAWS, "designed_draws": DESIGNED_DRAWS, "samples": 5,
        "backbones": [f"{s.model_id}, {w.phase} {w.batch_size} x {max(w.seq_len, w.context_len)}, {w.param_bits} bits"
                      for s, w in SETTINGS],
    }  # fmt: skip
    if options.only != "local":
        out["simulators"] = simulators()
    if options.only != "simulators":
        out["local"] = local(shipped())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rounded(out), indent=1) + "\n")


if __name__ == "__main__":
    main()
