"""Does one weight set serve a front as well as separate models do? Eight members of a MiniLM front, and a decoder.

    python benchmarks/serving/nested.py                   # about five minutes, one thread
    python benchmarks/serving/nested.py --run outputs/demo   # also tell what the members of that run share

Writes docs/benchmarks/serving_nested.json. The members are eight of those that `benchmarks/compact/speed.py` times (a
nested path that was priced for this computer), with the published model's weights.

Speed: each member as a view of the largest one's weights, and the same member loaded by itself, in turn and in shuffled
order; the latter takes part twice, and the difference of the two is the noise. Told are the median over rounds of the
ratio of processor times (above 1: the view is faster) and its 95 % interval by bootstrap. Memory: what a fresh process
holds for itself alone after loading the largest member, and all eight. Decoding: steps of random Llama-like models of
12 layers, where a member that skips layers leaves keys and values for the others, beside having the cache for itself.
"""

import argparse
import copy
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers

from metas_peft.backbones import compact, shape_of
from metas_peft.backbones.load import load_backbone
from metas_peft.backbones.store import PLAN, load, save_compact
from metas_peft.core.files import read_json, write_json
from metas_peft.core.subnet import Subnet
from metas_peft.devices.profiling import describe_machine, describe_software
from metas_peft.serving import ServedFront, Switching

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs" / "benchmarks" / "serving_nested.json"
SCRATCH = ROOT / "outputs" / "serving_nested"
PATH = ROOT / "benchmarks" / "compact" / "members_local.json"
CHOSEN = (0, 1, 2, 3, 5, 6, 8, 9)  # of the ten there
SETTINGS = ((1, 16), (1, 128), (8, 128))  # batch and tokens
TRIAL_S, ROUNDS, DRAWS = 0.06, 30, 2000
SWITCHES = 20_000
DECODER = {
    "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_key_value_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip
DECODER_MEMBERS = {
    "all": ([4] * 12, [16] * 12),
    "half": ([4, 0, 2, 0, 4, 0, 2, 0, 4, 0, 2, 4], [16, 8, 8, 0, 16, 8, 0, 8, 8, 8, 0, 16]),
    "quarter": ([2, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 2], [8, 4, 4, 0, 8, 0, 0, 4, 4, 4, 0, 8]),
}
CONTEXT, STEPS = 64, 24


def store() -> list[Path]:
    """Cut the members, where they are not there yet; their folders, largest first."""
    rows = [read_json(PATH)["members"][i] for i in CHOSEN]
    subnets = [Subnet.prefix(row["heads"], row["blocks"]) for row in rows]
    folders = [SCRATCH / "models" / subnet.key for subnet in subnets]
    if not all((folder / PLAN).exists() for folder in folders):
        network = load_backbone("minilm", n_labels=2).model.eval()
        shape = shape_of(network, (), "minilm")
        for subnet, folder in zip(subnets, folders, strict=True):
            config = copy.deepcopy(network.config)
            save_compact(compact(network, shape, subnet), config, subnet, folder, {"name": folder.name})
    return folders


def opened(folders: Sequence[Path], names: Sequence[str] | None = None) -> ServedFront:
    """The members on one set of weights, opened as a run's are."""
    labels = [folder.name for folder in folders] if names is None else names
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "models").symlink_to(folders[0].parent.resolve())
        rows = [{"name": name, "key": folder.name} for name, folder in zip(labels, folders, strict=True)]
        write_json(place / "results.json", {"run_id": "benchmark", "front": rows})
        return ServedFront.open(place)


# ---- memory


def held(count: int) -> int:
    """Bytes that this process holds for itself after loading the first so many members."""
    front = opened(store()[:count])
    inputs = {"input_ids": torch.ones(1, 8, dtype=torch.long)}
    for member in front:
        front.activate(member.name)
        front(**inputs)
    gc.collect()
    return psutil.Process().memory_full_info().uss


def memory(folders: Sequence[Path]) -> dict[str, Any]:
    """One member against all, each in processes of their own."""
    told = {
        count: [int(subprocess.check_output([sys.executable, __file__, "--hold", str(count)])) for _ in range(3)]
        for count in (1, len(folders))
    }
    front = opened(folders)
    alone, together = (float(np.median(values)) for values in told.values())
    return {
        "largest_weight_bytes": front.weight_bytes,
        "separate_weight_bytes": sum(m.weight_bytes for m in front),
        "own_bytes": {m.name: m.own_bytes for m in front},
        "process_bytes": {str(count): values for count, values in told.items()},
        "extra_bytes": together - alone,
        "extra_of_weights": (together - alone) / front.weight_bytes,
    }


# ---- time


def processor_time(one_pass: Callable[[], Any], passes: int) -> float:
    """Processor time of a pass, ms."""
    started = time.process_time()
    for _ in range(passes):
        one_pass()
    return (time.process_time() - started) / passes * 1e3


def median_with_interval(values: Sequence[float], rng: np.random.Generator) -> dict[str, float]:
    """Median and 95 % interval of it."""
    array = np.asarray(values)
    drawn = np.median(array[rng.integers(len(array), size=(DRAWS, len(array)))], axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"median": float(np.median(array)), "low": float(low), "high": float(high)}


def in_turn(passes: dict[str, Callable[[], Any]], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Processor times of several passes, round by round in shuffled order, (ROUNDS,) each."""
    counts = {}
    for name, one_pass in passes.items():
        one_pass()
        counts[name] = max(1, round(TRIAL_S * 1e3 / max(1e-3, processor_time(one_pass, 2))))
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(ROUNDS):
        for name in rng.permutation(list(passes)):
            times[name].append(processor_time(passes[name], counts[name]))
    return {name: np.asarray(found) for name, found in times.items()}


def speed(folders: Sequence[Path], rng: np.random.Generator) -> list[dict[str, Any]]:
    """View and separate model of each member, in each setting."""
    front, rows = opened(folders), []
    for batch, length in SETTINGS:
        ids = torch.randint(1, 30000, (batch, length), generator=torch.Generator().manual_seed(0))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        def runner(model: Any, inputs: dict[str, torch.Tensor] = inputs) -> Callable[[], Any]:
            def one_pass() -> Any:
                with torch.inference_mode():
                    return model(**inputs).logits

            return one_pass

        for member, folder in zip(front, folders, strict=True):
            front.activate(member.name)
            separate, twin = load(folder), load(folder)
            kinds = {"view": runner(front), "separate": runner(separate), "again": runner(twin)}
            times = in_turn(kinds, rng)
            rows.append(
                {
                    "batch_size": batch, "seq_len": length, "member": member.name,
                    "weight_bytes": member.weight_bytes,
                    "separate_ms": float(np.median(times["separate"])),
                    "speed_of_view": median_with_interval(times["separate"] / times["view"], rng),
                    "noise": median_with_interval(times["separate"] / times["again"], rng),
                    "logit_gap": float((kinds["view"]() - kinds["separate"]()).abs().max()),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def switching(folders: Sequence[Path], rng: np.random.Generator) -> dict[str, float]:
    """Microseconds of a switch; and of the first pass after one, beside further ones."""
    front = opened(folders)
    names = [front[folder.name].name for folder in folders]
    inputs = {"input_ids": torch.ones(1, 16, dtype=torch.long)}
    spent, started_at = [], time.process_time()
    for name in rng.choice(names, SWITCHES):
        started = time.perf_counter()
        front.activate(name)
        spent.append(time.perf_counter() - started)
    processor = (time.process_time() - started_at) / SWITCHES
    first, further = [], []
    for name in rng.choice(names, 200):
        front.activate(name)
        for place in (first, further):
            started = time.perf_counter()
            front(**inputs)
            place.append(time.perf_counter() - started)
    micro = np.asarray(spent) * 1e6
    return {
        "median_us": float(np.median(micro)),
        "p99_us": float(np.quantile(micro, 0.99)),
        "most_us": float(micro.max()),
        "processor_us": processor * 1e6,
        "switches": SWITCHES,
        "first_pass_by_further": float(np.median(np.asarray(first) / np.asarray(further))),
    }


# ---- decoding


def decoding(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Steps behind a cache: with keys and values left for the others, and without."""
    transformers.set_seed(0)
    config = transformers.LlamaConfig(**DECODER)
    model = transformers.LlamaForCausalLM(config).eval()
    shape = shape_of(model)
    subnets = {name: Subnet.prefix(*counts) for name, counts in DECODER_MEMBERS.items()}
    front = ServedFront((name, s, compact(model, shape, s)) for name, s in subnets.items())
    together, prompt, rows = Switching(front, list(front)), torch.arange(1, CONTEXT + 1)[None], []
    for member in front:
        runs: dict[str, Callable[[], Any]] = {}
        for kind, taking in (("together", together), ("alone", Switching(front, [member]))):
            cache = taking.cache()
            taking.step(prompt, cache, member)
            before = [dict(vars(layer)) for layer in cache.layers]

            def steps(taking: Any = taking, cache: Any = cache, before: Any = before, member: Any = member) -> None:
                for _ in range(STEPS):
                    taking.step(torch.tensor([[7]]), cache, member)
                for layer, state in zip(cache.layers, before, strict=True):
                    vars(layer).update(state)  # a step makes new tensors, so that the old ones are as they were

            runs[kind] = steps
        times = in_turn(runs, rng)
        own = sum(p.numel() for p in front.module(member.name).parameters()) * 2
        rows.append(
            {
                "member": member.name, "layers": member.subnet.kept_layers,
                "step_ms": float(np.median(times["together"])) / STEPS,
                "time_by_alone": median_with_interval(times["together"] / times["alone"], rng),
                "fill_flops": together.fill_flops(member), "fill_by_weights": together.fill_flops(member) / own,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def shared_in(run: Path) -> dict[str, Any]:
    """Bytes of their own of the members of a run and of its baselines, beside the largest member's weights."""
    results, told = read_json(run / "results.json"), {}
    fronts = {results["method"]: (run, results["front"])}
    fronts |= {n: (run / "baselines" / n, b["front"]) for n, b in results["baselines"].items()}
    for name, (folder, rows) in fronts.items():
        unique = {row["key"]: row["name"] for row in rows}
        front = opened([folder / "models" / key for key in unique], list(unique.values()))
        told[name] = {
            "largest_weight_bytes": front.weight_bytes,
            "separate_weight_bytes": sum(m.weight_bytes for m in front),
            "own_bytes": {m.name: m.own_bytes for m in front},
        }
    return told


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="also tell what the members of this finished run share")
    parser.add_argument("--parts", nargs="*", default=["memory", "switching", "speed", "decoding"])
    parser.add_argument("--hold", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.hold is not None:
        print(held(options.hold))
        return
    rng, folders = np.random.default_rng(0), store()
    result = read_json(RESULT) if RESULT.exists() else {}
    result |= {
        "command": "python benchmarks/serving/nested.py --run outputs/demo", "machine": describe_machine(),
        "software": describe_software(), "threads": 1, "model": "minilm", "members": len(folders),
    }  # fmt: skip
    parts: dict[str, Callable[[], Any]] = {
        "memory": lambda: memory(folders), "switching": lambda: switching(folders, rng),
        "speed": lambda: speed(folders, rng), "decoding": lambda: decoding(rng),
    }  # fmt: skip
    for part in options.parts:
        result[part] = parts[part]()
        result[part + "_at"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        write_json(RESULT, result)
    if options.run is not None:
        result["run"] = {"folder": options.run.name, "fronts": shared_in(options.run)}
        write_json(RESULT, result)
    print(json.dumps({part: result.get(part) for part in ("memory", "switching", "run")}, indent=1))


if __name__ == "__main__":
    main()
