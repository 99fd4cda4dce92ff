"""Does speed follow size? Ten members of a MiniLM front against the dense model, in three backends and two batches.

    python benchmarks/compact/speed.py                 # about six minutes, one thread
    python benchmarks/compact/speed.py --front phone   # a front that was priced for another device
    python benchmarks/compact/speed.py --members outputs/RUN   # take the members from the path of a run first

Writes docs/benchmarks/compact_speed_FRONT.json. The members are the nested path of a run at ten sizes
(`members_FRONT.json` beside this file: heads and FFN blocks per layer): of `metas run demo_fast device=local
retarget=[] hardware_profiling.power=modelled` (`local`, priced for the computer that it is timed on) or of `metas run
demo_fast` (`phone`, priced for a Pixel 8). Beside them stand two models of whole layers. Weights
are those of the published model, which a pass's time does not depend on. Each backend compares with the dense model in
that backend and number format, round-robin; the dense model takes part twice, and the difference of the two is the
noise floor. FLOPs are those of the encoder pass and the head (a look-up in the embeddings is none). A setting that is
in the result is not measured again; `--fresh` starts over.
"""

import argparse
import copy
import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metas_peft.backbones import compact, shape_of
from metas_peft.backbones.load import load_backbone
from metas_peft.backbones.store import PLAN, load, save_compact
from metas_peft.core.files import read_json, write_json
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.devices import TimingRules
from metas_peft.devices.profiling import describe_machine, describe_software
from metas_peft.export.backends import BACKENDS as KNOWN
from metas_peft.export.backends import prepare
from metas_peft.export.bench import Bench
from metas_peft.export.members import StoredMember

ROOT = Path(__file__).resolve().parents[2]
FRONTS = ("local", "phone")
RESULTS = ROOT / "docs" / "benchmarks"
SCRATCH = ROOT / "outputs" / "compact_speed"
SIZES = (0.90, 0.80, 0.70, 0.60, 0.55, 0.50, 0.42, 0.36, 0.30, 0.25)
WHOLE_LAYERS = {"3 whole layers": ([12, 12, 12, 0, 0, 0],) * 2, "2 whole layers": ([12, 12, 0, 0, 0, 0],) * 2}
BACKENDS, BATCHES, LENGTH = ("torch", "onnx", "onnx-int8"), (1, 8), 128
TARGET = 0.9
COMMAND = "python benchmarks/compact/speed.py --front"


def fraction(subnet: Subnet, shape: BackboneShape) -> float:
    """FLOPs over the dense model's."""
    flops = [float(paper_cost(shape, c, Workload(seq_len=LENGTH)).flops)
             for c in (Counts.of(subnet, shape), Counts.dense(shape))]  # fmt: skip
    return flops[0] / flops[1]


def kept(subnet: Subnet) -> dict[str, list[int]]:
    """Heads and FFN blocks per layer."""
    return {"heads": [len(x.heads) * x.attention for x in subnet.layers],
            "blocks": [len(x.ffn_blocks) * x.ffn for x in subnet.layers]}  # fmt: skip


def members_file(front: str) -> Path:
    """Where the members of a front are named."""
    return Path(__file__).with_name(f"members_{front}.json")


def choose(run: Path, file: Path, shape: BackboneShape) -> None:
    """Take ten members from the path of a run and keep them beside this file."""
    path = [Subnet.from_dict(s) for s in read_json(run / "subnets.json")["path"]]
    sizes = np.array([fraction(s, shape) for s in path])
    chosen = [path[int(np.abs(sizes - size).argmin())] for size in SIZES]
    write_json(file, {"path_of": f"metas run {run.name}", "members": [kept(s) for s in chosen]})


def subnets(file: Path, shape: BackboneShape) -> dict[str, Subnet]:
    """Name -> what is timed."""
    path = [Subnet.prefix(row["heads"], row["blocks"]) for row in read_json(file)["members"]]
    layers = {name: Subnet.prefix(*counts) for name, counts in WHOLE_LAYERS.items()}
    return {f"{fraction(s, shape):.1%}": s for s in path} | layers


def store(names: dict[str, Subnet], network: Any, shape: BackboneShape) -> list[StoredMember]:
    """Cut the models, where they are not there yet."""
    members = []
    for name, subnet in names.items():
        folder = SCRATCH / "models" / subnet.key
        if not (folder / PLAN).exists():
            save_compact(compact(network, shape, subnet), copy.deepcopy(network.config), subnet, folder, {"name": name})
        members.append(StoredMember(subnet.key, name, folder, subnet))
    return members


def summary(table: dict[str, Any]) -> dict[str, Any]:
    """Speed-up over the reduction of FLOPs, for the front's members."""
    found = [row["speed_by_size"] for row in table["rows"] if row["member"].endswith("%")]
    layers = {row["member"]: row["speed_by_size"] for row in table["rows"] if "layers" in row["member"]}
    return {
        "members": len(found), "least": min(found), "median": float(np.median(found)), "most": max(found),
        "at_least_0.9": sum(value >= TARGET for value in found), "whole_layers": layers,
    }  # fmt: skip


def main() -> None:
    """Measure what is missing and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--front", choices=FRONTS, default=FRONTS[0], help="which front to time")
    parser.add_argument("--members", type=Path, help="take ten members from the path of this run's folder")
    parser.add_argument("--seconds", type=float, default=4.0, help="time limit per model and setting")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--prepare", action="store_true", help="only cut and export the models")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    network = load_backbone("minilm", n_labels=2).model.eval()
    shape = shape_of(network, (), "minilm")
    file, target = members_file(options.front), RESULTS / f"compact_speed_{options.front}.json"
    if options.members is not None:
        choose(options.members, file, shape)
    names = {"dense": Subnet.dense(shape), **subnets(file, shape)}
    dense, *members = store(names, network, shape)
    if options.prepare:
        for member in (dense, *members):
            for backend in BACKENDS:
                files = SCRATCH / "onnx" / member.key
                prepare(KNOWN[backend], Workload(seq_len=8), lambda m=member: load(m.folder), files, 1)
        return
    result: dict[str, Any] = {"tables": []} if options.fresh or not target.exists() else read_json(target)
    done = {(t["backend"], t["batch_size"]) for t in result["tables"]}
    # Several passes in a row, so that caches are as warm as in use.
    rules = TimingRules(tolerance=0.005, seconds_per_subject=options.seconds, trial_s=0.25, flight_size=16)
    bench = Bench(members, dense, rules=rules, files=SCRATCH / "onnx")
    for batch in BATCHES:
        for backend in BACKENDS:
            if (backend, batch) in done:
                continue
            table = dataclasses.asdict(bench.run(backend, Workload(batch_size=batch, seq_len=LENGTH)))
            result["tables"].append({**table, "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())})
            result |= {
                "command": f"{COMMAND} {options.front}", "machine": describe_machine(), "software": describe_software(),
                "model": "minilm", "members_from": read_json(file)["path_of"],
                "members": {name: kept(subnet) for name, subnet in names.items()},
                "target": TARGET,
                "summary": {f"{t['backend']}, batch {t['batch_size']}": summary(t) for t in result["tables"]},
            }  # fmt: skip
            write_json(target, result)
            print(f"{backend}, batch {batch}: {result['summary'][f'{backend}, batch {batch}']}", flush=True)


if __name__ == "__main__":
    main()
