"""Size and speed of the controller for eight members of Llama-2-7B: packed bytes, Python, C.

    python benchmarks/serving/controller.py        # a minute; a C compiler is needed

Writes docs/benchmarks/controller.json. The tree has all eight leaves of depth 3. Sizes are the largest over 200 fronts
whose members keep any prefixes at all in each of 32 layers, and over 50 whose members are nested in any order of heads.
Times are of one thread; in Python the median of 25 repeats, in C the processor time of a compiled loop, whose answers
on 10,000 inputs are compared with Python's.

`kept` is of made-up inputs on which token entropy does tell who will be right (on SST-2 it does not: `adaptive.py`);
three members, 2,000 recorded inputs, and the volume of tree, policy and best single member on 20,000 others, ten seeds.
"""

import argparse
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from metas_peft.control.assess import decide_all, time_decision
from metas_peft.control.c_header import render
from metas_peft.control.codec import MAX_BYTES, pack
from metas_peft.control.distil import Recorded, distil
from metas_peft.control.runtime import token_entropy
from metas_peft.control.tree import Controller, ControllerTree, run_tag, to_float32
from metas_peft.control.worth import point_of
from metas_peft.core.files import write_json
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.costs import LLAMA_2_7B
from metas_peft.devices.profiling import describe_machine

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs" / "benchmarks" / "controller.json"
MEMBERS, TOKENS, INPUTS, VOCABULARY = 8, 128, 10_000, 32_000
LOOPS, WHOLE_LOOPS = 2_000, 20
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2"]
PROGRAM = """
#include <stdio.h>
#include <time.h>
#include "controller.h"
static float nats[VOCABULARY], entropy[INPUTS], position[INPUTS];
static int32_t ids[INPUTS][TOKENS];
static double seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }
int main(void)
{
    volatile int sink = 0;
    double start, bare, whole;
    int i, loop;
    if (fread(nats, sizeof(nats), 1, stdin) != 1 || fread(ids, sizeof(ids), 1, stdin) != 1) { return 1; }
    if (fread(position, sizeof(position), 1, stdin) != 1) { return 1; }
    for (i = 0; i < INPUTS; ++i) { entropy[i] = metas_token_entropy(ids[i], TOKENS, nats); }
    start = seconds();
    for (loop = 0; loop < LOOPS; ++loop) {
        for (i = 0; i < INPUTS; ++i) { sink = sink + metas_decide(entropy[i], position[i]); }
    }
    bare = (seconds() - start) / INPUTS / LOOPS;
    start = seconds();
    for (loop = 0; loop < WHOLE_LOOPS; ++loop) {
        for (i = 0; i < INPUTS; ++i) {
            sink = sink + metas_decide(metas_token_entropy(ids[i], TOKENS, nats), position[i]);
        }
    }
    whole = (seconds() - start) / INPUTS / WHOLE_LOOPS;
    printf("%.9f %.9f\\n", bare * 1e6, whole * 1e6);
    for (i = 0; i < INPUTS; ++i) { printf("%d\\n", metas_decide(entropy[i], position[i])); }
    return 0;
}
"""
SIZES = {"INPUTS": INPUTS, "TOKENS": TOKENS, "VOCABULARY": VOCABULARY, "LOOPS": LOOPS, "WHOLE_LOOPS": WHOLE_LOOPS}


def full_tree(low: float, high: float) -> ControllerTree:
    """Depth 3, eight leaves, a member each."""
    at = [to_float32(low + (high - low) * share) for share in (0.5, 0.25, 0.75)]
    return ControllerTree(
        feature=(0, 1, 0, -1, -1, 0, -1, -1, 1, 0, -1, -1, 0, -1, -1),
        threshold=(at[0], 0.5, at[1], 0.0, 0.0, at[1], 0.0, 0.0, 0.5, at[2], 0.0, 0.0, at[2], 0.0, 0.0),
        left=(1, 2, 3, -1, -1, 6, -1, -1, 9, 10, -1, -1, 13, -1, -1),
        right=(8, 5, 4, -1, -1, 7, -1, -1, 12, 11, -1, -1, 14, -1, -1),
        member=(-1, -1, -1, 0, 1, -1, 2, 3, -1, -1, 4, 5, -1, 6, 7),
    )


def any_prefixes(rng: np.random.Generator) -> tuple[Subnet, ...]:
    """Eight members that keep any number of heads and blocks in any layer."""
    shape = LLAMA_2_7B
    return tuple(
        Subnet.prefix(
            rng.integers(0, shape.n_kv_heads + 1, shape.n_layers).tolist(),
            rng.integers(0, shape.ffn_blocks + 1, shape.n_layers).tolist(),
        )
        for _ in range(MEMBERS)
    )


def nested_anyhow(rng: np.random.Generator) -> tuple[Subnet, ...]:
    """Eight members within one another, heads and blocks in no order."""
    shape = LLAMA_2_7B
    tables = [rng.integers(0, MEMBERS + 1, (shape.n_layers, n)) for n in (shape.n_kv_heads, shape.ffn_blocks)]

    def plan(layer: int, member: int) -> LayerPlan:
        heads, blocks = (tuple(np.flatnonzero(t[layer] <= member).tolist()) for t in tables)
        return LayerPlan(bool(heads), bool(blocks), heads, blocks)

    return tuple(Subnet(tuple(plan(i, m) for i in range(shape.n_layers))) for m in range(MEMBERS))


def in_c(controller: Controller, nats: np.ndarray, ids: np.ndarray, position: np.ndarray) -> tuple[float, float, list]:
    """Microseconds of the bare tree and with features, and all answers."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("No C compiler on this machine.")
    sizes = [f"-D{name}={value}" for name, value in SIZES.items()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "controller.h").write_text(render(controller))
        (folder / "main.c").write_text(PROGRAM)
        subprocess.run([compiler, *FLAGS, *sizes, "main.c", "-o", "main", "-lm"], cwd=folder, check=True)
        sent = nats.astype("<f4").tobytes() + ids.astype("<i4").tobytes() + position.astype("<f4").tobytes()
        done = subprocess.run([folder / "main"], input=sent, capture_output=True, check=True)
    bare, whole, *answers = done.stdout.split()
    return float(bare), float(whole), [int(a) for a in answers]


def made_up(seed: int, inputs: int) -> Recorded:
    """Inputs on which smaller members fail the more often the higher the entropy is."""
    rng = np.random.default_rng(seed)
    entropy, position = rng.normal(7, 1, inputs).astype(np.float32), rng.uniform(0, 1, inputs).astype(np.float32)
    dense = rng.random(inputs) < 0.93
    hard = 1 / (1 + np.exp(-(4.0 * (entropy - 7) + 2.0 * (position - 0.5) - 2.5)))
    right = np.array([dense & (rng.random(inputs) >= share * hard) for share in (0.05, 0.4, 1.0)], float)
    return Recorded(entropy, position, right, dense.astype(float))


def kept(seed: int) -> dict[str, float]:
    """Volumes of tree and best single member over the policy's, on inputs that none was fitted to."""
    costs, dense_cost = np.array([[0.8, 0.8, 0.9], [0.5, 0.5, 0.85], [0.3, 0.3, 0.8]]), np.ones(3)
    made, fresh = distil(made_up(seed, 2_000), costs, dense_cost, seed=seed), made_up(1_000 + seed, 20_000)
    stakes = fresh.stakes(costs, dense_cost)
    choices = {
        "tree": decide_all(made.tree, fresh.entropy, fresh.position),
        "policy": made.policy.choose(fresh.entropy, fresh.position),
        "static": np.full(len(fresh), made.static),
    }
    volumes = {name: stakes.volume(point_of(fresh.right.T, choice)) for name, choice in choices.items()}
    return {name: volumes[name] / volumes["policy"] for name in ("tree", "static")}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rng = np.random.default_rng(0)
    nats = rng.uniform(4, 14, VOCABULARY).astype(np.float32)
    ids = rng.integers(0, VOCABULARY, (INPUTS, TOKENS))
    position = rng.uniform(0, 1, INPUTS).astype(np.float32)
    table = nats.tolist()
    entropy = [token_entropy(row, table) for row in ids.tolist()]
    tree = full_tree(float(np.quantile(entropy, 0.02)), float(np.quantile(entropy, 0.98)))
    sizes = {
        make.__name__: max(
            len(pack(Controller(tree, make(np.random.default_rng(seed)), run_tag("llama")), limit=10**6))
            for seed in range(count)
        )
        for make, count in ((any_prefixes, 200), (nested_anyhow, 50))
    }
    controller = Controller(tree, any_prefixes(np.random.default_rng(0)), run_tag("llama"), (), TOKENS)
    timed = time_decision(controller, ids[0].tolist(), table, TOKENS, repeats=25)
    bare_us, whole_us, answers = in_c(controller, nats, ids, position)
    expected = [controller.decide(e, float(p)) for e, p in zip(entropy, position, strict=True)]
    ratios = [kept(seed) for seed in range(10)]
    volumes = {name: [r[name] for r in ratios] for name in ("tree", "static")}
    result = {
        "command": "python benchmarks/serving/controller.py",
        "machine": describe_machine(),
        "python": platform.python_version(),
        "backbone": LLAMA_2_7B.model_id,
        "members": MEMBERS,
        "limit_bytes": MAX_BYTES,
        "largest_bytes": sizes,
        "python_us": {"decision_with_features": timed.decision_us, "bare_tree": timed.tree_us, "tokens": timed.tokens},
        "c_us": {"decision_with_features": whole_us, "bare_tree": bare_us, "tokens": TOKENS, "flags": FLAGS},
        "same_answers": {
            "inputs": INPUTS,
            "same": sum(a == b for a, b in zip(answers, expected, strict=True)),
            "members_chosen": len(set(expected)),
        },
        "origin": "measured",
        "kept": {
            name: {"mean": float(np.mean(values)), "least": float(min(values)), "most": float(max(values))}
            for name, values in volumes.items()
        },
    }
    write_json(RESULT, result)
    print({k: result[k] for k in ("largest_bytes", "python_us", "c_us", "same_answers", "kept")})


if __name__ == "__main__":
    main()
