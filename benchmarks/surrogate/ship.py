"""Make the surrogate that ships with the package: `python benchmarks/surrogate/ship.py`.

Writes `meta_surrogate_v1.safetensors` and its card `meta_surrogate_v1.json` into the package; two trainings of a few
minutes each on one core, from made-up devices alone.
"""

import argparse
import json
import logging
import time
from importlib import metadata
from pathlib import Path

import torch
from tqdm import tqdm

from metas_peft import __version__
from metas_peft.surrogate.shipped import FILE
from metas_peft.surrogate.shipping import Plan, make_surrogate

WEIGHTS = Path(__file__).resolve().parents[2] / "src" / "metas_peft" / "surrogate" / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS / FILE)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    plan, started = Plan(), time.monotonic()
    with tqdm(total=100, disable=None) as bar:
        trained = make_surrogate(options.seed, plan, lambda part: bar.update(round(100 * part) - bar.n))
    seconds = time.monotonic() - started
    trained.save(options.out)
    metas = trained.kinds["metas"].settings()
    card = {
        "name": "meta_surrogate_v1",
        "pool": "made-up devices and devices drawn from a prior; no device of the catalogue, no measurement",
        "made_up_devices": plan.devices,
        "passes": trained.n_records,
        "networks": plan.networks,
        "parameters_each": sum(p.numel() for p in trained.kinds["metas"].few_shot.networks[0].parameters()),
        "shares": dict(zip(("networks", "roofline", "roofline_with_squares"), metas["shares"], strict=True)),
        "interval_widths": metas["widths"],
        "median_errors_pct": trained.errors,
        "ranges": trained.ranges,
        "seed": options.seed,
        "training_seconds": round(seconds, 1),
        "versions": {"metas-peft": __version__, **{n: metadata.version(n) for n in ("torch", "numpy", "scipy")}},
    }
    options.out.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
