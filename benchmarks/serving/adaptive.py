"""Does routing pay? The adaptive model beside static members and beside chance, on the 872 sentences of SST-2.

    metas run benchmarks/serving/sst2_7k.yaml dataset.path=FOLDER      # the front, on 7,000 training texts
    python benchmarks/serving/adaptive.py --run outputs/sst2_7k --data FOLDER

Writes docs/benchmarks/adaptive.json. Nothing is trained; every stored member answers the held-out and the validation
sentences once. FOLDER holds train.parquet and validation.parquet of SST-2.

Costs are latencies as the run measured them on its target. For a router with mean cost c, the rival is chance: of any
two members it sends so many inputs to the one and the rest to the other, at random, that its mean cost is c too; the
pair with the best expected quality is taken. `gain` is the router's quality less that, in points, with a 95 % interval
of a bootstrap over the 872 sentences in which the router's and the members' answers are drawn together, and the pair is
chosen anew. The routers:

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
from transformers import AutoTokenizer

from metas_peft.backbones.store import load
from metas_peft.conf.compose import load as load_config
from metas_peft.control.assess import decide_all
from metas_peft.control.distil import Recorded, distil
from metas_peft.control.features import sequence_features
from metas_peft.control.fit import fit
from metas_peft.control.policy import cheapest_agreeing
from metas_peft.control.runtime import read_information
from metas_peft.core.files import read_json, write_json
from metas_peft.core.records import METRICS
from metas_peft.export.members import dense_of, members_of
from metas_peft.tasks import DatasetRequest, open_task
from metas_peft.tuning.data import Collator, EncodedTexts, predict
from metas_peft.tuning.forms import CLASSES

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs" / "benchmarks" / "adaptive.json"
DRAWS = 2000
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


def chance_at(cost: float, quality: np.ndarray, costs: np.ndarray) -> float:
    """Best expected quality of sending inputs to two members at random, at a mean cost."""
    best = -np.inf
    for i, low in enumerate(costs):
        if low <= cost:
            best = max(best, float(quality[i]))  # what is left over is not spent
        for j, high in enumerate(costs):
            if low <= cost <= high and high > low:
                share = (cost - low) / (high - low)
                best = max(best, float((1 - share) * quality[i] + share * quality[j]))
    return best


def judged(right: np.ndarray, cost: np.ndarray, members: np.ndarray, costs: np.ndarray, seed: int) -> dict[str, Any]:
    """A router against chance at its own mean cost.

    Args:
        right: 1 where the router is right, (N,).
        cost: What it paid for each input, (N,).
        members: 1 where each member is right, (M, N).
        costs: Of one pass of each member, (M,).
        seed: Of the bootstrap.
    """
    rng = np.random.default_rng(seed)

    def gain(rows: np.ndarray) -> float:
        return float(right[rows].mean()) - chance_at(float(cost[rows].mean()), members[:, rows].mean(1), costs)

    every = np.arange(len(right))
    drawn = [gain(rng.integers(len(right), size=len(right))) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "quality": float(right.mean()),
        "mean_latency_ms": float(cost.mean()),
        "chance_quality": float(right.mean()) - gain(every),
        "gain_points": 100 * gain(every),
        "interval_95_points": [100 * float(low), 100 * float(high)],
    }


def routed(choice: np.ndarray, answers: Answers, costs: np.ndarray, seed: int) -> dict[str, Any]:
    """A router that sends each input to one member."""
    columns = np.arange(len(choice))
    usage = np.bincount(choice, minlength=len(costs)) / len(choice)
    return judged(answers.right[choice, columns], costs[choice], answers.right, costs, seed) | {"usage": usage.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the finished run")
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of SST-2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results, config = read_json(args.run / "results.json"), load_config(args.run / "config.yaml")
    members = members_of(args.run)
    limits = config.dataset
    data = open_task("sst2", path=str(args.data)).load(
        DatasetRequest(args.data, None, limits.train_limit, limits.evaluation_limit, config.training.seed,
                       limits.holdout_ratio)
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(members[0].folder, local_files_only=True)
    collator = Collator(tokenizer.pad_token_id)
    models, whole = [load(m.folder) for m in members], dense_of(args.run)
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
    information = np.array(read_information(args.run / "self_information.f32"))
    features = {
        n: sequence_features(a.texts.ids, information, limits.max_length) for n, a in (("held", held), ("shown", shown))
    }
    prices = np.array([[by_key[m.key][metric] for metric in METRICS] for m in members])
    dense_price = np.array([results["dense"][metric] for metric in METRICS])
    recorded = Recorded(*features["held"], held.right, ask(data.holdout, [dense]).right[0])
    made = distil(recorded, prices, dense_price, depth=config.controller.depth, seed=config.training.seed)
    order = [int(i) for i in np.argsort(costs, kind="stable")]
    dense_ms = results["dense"]["latency_ms"]
    routers: dict[str, Any] = {"shipped": routed(decide_all(made.tree, *features["shown"]), shown, costs, 0)}
    for number, price in enumerate(PRICES):
        tree = fit(*features["held"], held.right.T - price * costs / dense_ms)
        routers[f"tree, price {price:g}"] = routed(decide_all(tree, *features["shown"]), shown, costs, 1 + number)
    routers["hindsight"] = routed(cheapest_agreeing(shown.classes, order), shown, costs, 50)
    small, large = order[0], order[-1]
    for number, share in enumerate(SHARES):
        threshold = np.quantile(held.confidence[small], share)
        handed = shown.confidence[small] < threshold
        right = np.where(handed, shown.right[large], shown.right[small])
        routers[f"cascade, {share:.0%} handed on"] = judged(
            right, costs[small] + handed * costs[large], shown.right, costs, 60 + number
        )
    best = max((r for n, r in routers.items() if n.startswith(("shipped", "tree"))), key=lambda r: r["gain_points"])
    pays = any(r["interval_95_points"][0] > 0 for n, r in routers.items() if n.startswith(("shipped", "tree")))
    result = {
        "command": "python benchmarks/serving/adaptive.py --run outputs/sst2_7k --data FOLDER",
        "front": "metas run benchmarks/serving/sst2_7k.yaml dataset.path=FOLDER",
        "task": results["task"],
        "task_origin": results["task_origin"],
        "n_train": results["n_train"],
        "n_held_out": len(held.texts),
        "n_validation": len(shown.texts),
        "latency": {"device": results["target_device"], "origin": by_key[members[0].key]["origin"]["latency"]},
        "members": [
            {"name": m.name, "latency_ms": float(c), "quality": float(q), "held_out_quality": float(h)}
            for m, c, q, h in zip(members, costs, shown.right.mean(1), held.right.mean(1), strict=True)
        ],
        "routing_pays": pays,
        "verdict": {
            "gain_of_volume": made.gain,
            "standard_error": made.gain_error,
            "pays": made.pays,
            "static_member": members[made.static].name,
            "policy_and_tree_agree": float(
                (made.policy.choose(*features["shown"]) == decide_all(made.tree, *features["shown"])).mean()
            ),
        },
        "best_gain_points": best["gain_points"],
        "routers": routers,
    }
    write_json(RESULT, result)
    print("routing pays:", pays, result["verdict"])
    for name, row in routers.items():
        low, high = row["interval_95_points"]
        print(f"{name:24} {row['quality']:.4f} at {row['mean_latency_ms']:.2f} ms, chance {row['chance_quality']:.4f}: "
              f"{row['gain_points']:+.2f} points [{low:+.2f}, {high:+.2f}]")  # fmt: skip


if __name__ == "__main__":
    main()
