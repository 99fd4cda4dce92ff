"""Five measurements on a device nobody has seen: public records, every rival, identical draws.

    METAS_DATA=FOLDER python benchmarks/surrogate/public.py [--track protran ...] [--method roofline ...]

appends to docs/benchmarks/surrogate_public.jsonl what is not there yet; `summarise.py` makes the tables of it. The
simple rivals take a minute; `reference`, `help_style` and `metas` train networks, one training at most ten minutes.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from protocol import DESIGNS, absolute_errors, draws, summary
from results import Results
from rivals import SIMPLE, Learn, boosted_own
from tracks import LOADERS, Track, load

CEILING = "boosted_own"


def methods() -> dict[str, Callable[[], Learn]]:
    """Makers of methods by name; a maker imports what it needs."""

    def learnt(module: str, name: str) -> Callable[[], Learn]:
        def make() -> Learn:
            return getattr(__import__(module), name)

        return make

    found: dict[str, Callable[[], Learn]] = {name: (lambda f=function: f) for name, function in SIMPLE.items()}
    found["reference"] = learnt("learners", "reference")
    found["help_style"] = learnt("learners", "help_style")
    found["metas"] = learnt("ours", "metas")
    return found


def evaluate(track: Track, name: str, method: str, learn: Learn, results: Results) -> None:
    """All designs of one method on one held-out set."""
    missing = [d for d in DESIGNS if not results.has(track.name, name, method, d)]
    if not missing:
        return
    started = time.monotonic()
    predict = learn(track, track.training_sets(name))
    learning = time.monotonic() - started
    for design in missing:
        started = time.monotonic()
        errors = []
        drawn = draws(track, name, design)
        for draw in drawn:
            errors.append(absolute_errors(predict(draw.chosen, draw.tested), track.logs[draw.tested]))
        seconds = time.monotonic() - started
        means = np.array([e.mean(0) for e in errors])
        results.add(
            {
                "track": track.name, "set": name, "method": method, "design": design,
                **summary(np.concatenate(errors)), "seed_means": means, "tested": len(drawn[0].tested),
                "seconds_learning": learning, "seconds_per_draw": seconds / len(drawn),
            }
        )  # fmt: skip
        print(f"{track.name} {name} {method} {design}: {np.round(means.mean(0), 2).tolist()} %", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--track", action="append", choices=list(LOADERS))
    parser.add_argument("--method", action="append", choices=[*methods(), CEILING])
    options = parser.parse_args()
    results, makers = Results(), methods()
    for track_name in options.track or LOADERS:
        track = load(track_name)
        for method in options.method or [*makers, CEILING]:
            if method == "roofline_squared" and not track.schema.squared:
                continue  # nothing is squared there
            for name in track.sets:
                if method != CEILING:
                    evaluate(track, name, method, makers[method](), results)
                elif not results.has(track.name, name, CEILING, "all rows"):
                    errors = boosted_own(track, name)
                    key = {"track": track.name, "set": name, "method": CEILING, "design": "all rows"}
                    results.add({**key, **summary(errors), "seed_means": [errors.mean(0)], "tested": len(errors)})


if __name__ == "__main__":
    main()
