"""Does routing pay? The adaptive model beside static members and beside chance, on the 872 sentences of SST-2.

    metas run benchmarks/serving/sst2_7k.yaml dataset.path=FOLDER      # the front, on 7,000 training texts
    python benchmarks/serving/adaptive.py --run outputs/sst2_7k --data FOLDER
    python benchmarks/serving/adaptive.py --again       # the table alone, from the answers in adaptive.json

Writes docs/benchmarks/adaptive.json. Nothing is trained; every stored member answers the held-out and the validation
sentences once. FOLDER holds train.parquet and validation.parquet of SST-2.

Costs are latencies as the run measured them on its target. For a router with mean cost c, the rival is chance: of two
members it sends so many inputs to the one and the rest to the other, at random, that its mean cost is c too. The `fair`
rival takes the pair that is best on the held-out texts, of which the routers are made as well; the one `in hindsight`
takes the pair that is best on the sentences that it is scored on. `gain` is the router's quality less the rival's, in
points, with a 95 % interval of a bootstrap over the sentences in which the router's and the members' answers are drawn
together, see `chance.py`. The routers:

    shipped     the controller that a run makes of the held-out texts, with its verdict on whether routing pays
    tree, price trees of depth 3 on both features, fitted to the held-out texts at seven prices of time: the same
                search, without the verdict on whether routing pays
    hindsight   the cheapest member that answers as the largest: a bound that must run all members first
    cascade     the smallest member answers; where its probability is below a threshold set on the held-out texts, the
                largest answers too, and both are paid for. It looks at an answer, which no controller here does
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chance import BOUND, RIVALS, table, to_digits, to_hex
from transformers import AutoTokenizer

from metas_peft.backbones.store import load
from metas_peft.conf.compose import load as load_config
from metas_peft.control.assess import decide_all
from metas_peft.control.distil import Recorded, distil
from metas_peft.control.features import sequence_features
from metas_peft.control.fit import fit
from metas_peft.control.policy import cheapest_agreeing
from metas_peft.control.runtime import read_information
from metas_peft.core.cost import METRICS
from metas_peft.core.files import read_json, write_json
from metas_peft.export.members import dense_of, members_of
from metas_peft.tasks import DatasetRequest, open_task
from metas_peft.tuning.data import Collator, EncodedTexts, predict
from metas_peft.tuning.forms import CLASSES

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs" / "benchmarks" / "adaptive.json"
PRICES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)  # quality per dense latency
SHARES = (0.1, 0.25, 0.5)  # of the held-out inputs that a cascade hands on


class Answers:
    """What the members of a run say to some texts."""

    def __init__(self, logits: np.ndarray, texts: EncodedTexts) -> None:
        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        self.confidence = (shifted / shifted.sum(-1, keepdims=True)).max(-1)
        self.classes = logits.argmax(-1)
        self.right = (self.classes == np.array(texts.labels)).astype(float)
        self.texts = texts


def measured(run: Path, folder: Path) -> dict[str, Any]:
    """What the members of a finished run answer, and where each router sends what; no comparison yet."""
    results, config = read_json(run / "results.json"), load_config(run / "config.yaml")
    members = members_of(run)
    limits = config.dataset
    data = open_task("sst2", path=str(folder)).load(
        DatasetRequest(folder, None, limits.train_limit, limits.evaluation_limit, config.training.seed,
                       limits.holdout_ratio)
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(members[0].folder, local_files_only=True)
    collator = Collator(tokenizer.pad_token_id)
    models, whole = [load(m.folder) for m in members], dense_of(run)
    assert whole is not None, "the run holds no dense model"
    dense = load(whole.folder)

    def ask(part: Any, asked: list) -> Answers:
        texts = CLASSES.encode(tokenizer, part, limits.max_length)
        return Answers(np.stack([predict(model, texts, collator).numpy() for model in asked]), texts)

    held, shown = ask(data.holdout, models), ask(data.validation, models)
    by_key = {row["key"]: row for row in results["front"]}
    costs = np.array([by_key[m.key]["latency_ms"] for m in members])
    noted = [by_key[m.key]["quality"] for m in members]
    assert np.allclose(shown.right.mean(1), noted), "these are not the texts that the run was evaluated on"
    information = np.array(read_information(run / "self_information.f32"))
    features = {
        n: sequence_features(a.texts.ids, information, limits.max_length) for n, a in (("held", held), ("shown", shown))
    }
    prices = np.array([[by_key[m.key][metric] for metric in METRICS] for m in members])
    dense_price = np.array([results["dense"][metric] for metric in METRICS])
    recorded = Recorded(*features["held"], held.right, ask(data.holdout, [dense]).right[0])
    made = distil(recorded, prices, dense_price, depth=config.controller.depth, seed=config.training.seed)
    order = [int(i) for i in np.argsort(costs, kind="stable")]
    dense_ms = results["dense"]["latency_ms"]
    chosen = {"shipped": decide_all(made.tree, *features["shown"])}
    for price in PRICES:
        tree = fit(*features["held"], held.right.T - price * costs / dense_ms)
        chosen[f"tree, price {price:g}"] = decide_all(tree, *features["shown"])
    chosen[BOUND] = cheapest_agreeing(shown.classes, order)
    routers: dict[str, Any] = {name: {"choice": to_digits(who), "first": None} for name, who in chosen.items()}
    small, large = order[0], order[-1]
    for share in SHARES:
        handed = shown.confidence[small] < np.quantile(held.confidence[small], share)
        choice = to_digits(np.where(handed, large, small))
        routers[f"cascade, {share:.0%} handed on"] = {"choice": choice, "first": small}
    return {
        "command": "python benchmarks/serving/adaptive.py --run outputs/sst2_7k --data FOLDER",
        "front": "metas run benchmarks/serving/sst2_7k.yaml dataset.path=FOLDER",
        "task": results["task"],
        "task_origin": results["task_origin"],
        "n_train": results["n_train"],
        "inputs": {"held_out": len(held.texts), "validation": len(shown.texts)},
        "latency": {"device": results["target_device"], "origin": by_key[members[0].key]["origin"]["latency"]},
        "verdict": {
            "gain_of_volume": made.gain,
            "standard_error": made.gain_error,
            "pays": made.pays,
            "static_member": members[made.static].name,
            "policy_and_tree_agree": float((made.policy.choose(*features["shown"]) == chosen["shipped"]).mean()),
        },
        "members": [
            {
                "name": member.name,
                "latency_ms": float(costs[m]),
                "quality": float(shown.right[m].mean()),
                "held_out_quality": float(held.right[m].mean()),
                "validation_right": to_hex(shown.right[m]),
                "held_out_right": to_hex(held.right[m]),
            }
            for m, member in enumerate(members)
        ],
        "routers": routers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of the finished run")
    parser.add_argument("--data", type=Path, help="folder with the files of SST-2")
    parser.add_argument("--again", action="store_true", help="compare anew, from the answers in adaptive.json")
    args = parser.parse_args()
    if not args.again and (args.run is None or args.data is None):
        parser.error("name --run and --data, or --again")
    torch.set_num_threads(1)
    result = read_json(RESULT) if args.again else measured(args.run, args.data)
    rows = table(result["members"], result["routers"], result["inputs"])
    result["compared"] = rows
    write_json(RESULT, result)
    print(result["verdict"])
    for name, row in rows.items():
        print(f"{name:24} {row['quality']:.4f} at {row['mean_latency_ms']:.2f} ms")
        for rival in RIVALS:
            beside = row["against"][rival]
            low, high = beside["interval_95_points"]
            least, most = beside["interval_95_points_of_all_routers"]
            print(f"    {rival:14}{beside['chance_quality']:.4f}: {beside['gain_points']:+.2f} "
                  f"[{low:+.2f}, {high:+.2f}] {beside['pays']}; "
                  f"of all [{least:+.2f}, {most:+.2f}] {beside['pays_among_all_routers']}")  # fmt: skip


if __name__ == "__main__":
    main()
