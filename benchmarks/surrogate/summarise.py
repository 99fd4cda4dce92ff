"""Tables of the surrogate's benchmarks: `python benchmarks/surrogate/summarise.py`.

Reads docs/benchmarks/surrogate_public.jsonl, surrogate_gates.json, surrogate_speed.json and the card of the shipped
surrogate; writes docs/benchmarks/surrogate_public.json (means and paired differences) and docs/surrogate.md.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from protocol import DESIGNS, mean_over, paired
from public import CEILING
from results import DOCS, Results, rounded

ROOT = Path(__file__).resolve().parents[2]
CARD = ROOT / "src" / "metas_peft" / "surrogate" / "weights" / "meta_surrogate_v1.json"
NAMES = {
    "constant": "constant (median of the five)", "log_affine": "log-affine line from the nearest device",
    "gaussian_process": "Gaussian process on five points", "boosted_five": "boosted trees on five points",
    "help_style": "HELP-style meta-learner", "reference": "the source's network, tuned (`reference`)",
    "roofline": "roofline", "roofline_squared": "roofline with parameters squared", "metas": "**`metas`**",
    CEILING: "all own rows, cross-validated (the ceiling)",
}  # fmt: skip
ORDER = list(NAMES)
DESIGN_NAMES = {"random": "random", "quantiles": "FLOPs quantiles", "d_optimal": "D-optimal"}
METRICS = ("energy", "latency", "power")
# What was aimed at: error by the oracle's, percent of processor time per setting and across settings.
ORACLE, PER_SETTING, ACROSS = 1.25, 3.1, 6


def table_of(results: Results, track: str) -> dict[str, Any]:
    """Means over sets per method and design, and paired differences to the roofline and to `metas`."""
    out: dict[str, Any] = {}
    sets = max(len(list(results.of(track, method, "random"))) for method in ORDER)
    for design in (*DESIGNS, "all rows"):
        for method in ORDER:
            rows = list(results.of(track, method, design))
            if len(rows) < sets:
                continue  # a mean over some of the sets compares with nothing
            block: dict[str, Any] = {
                "sets": {row["set"]: row["mean"] for row in rows},
                **{key: mean_over([row[key] for row in rows]) for key in ("mean", "median", "p90")},
            }
            own = results.seed_means(track, method, design)
            for other in ("roofline", "metas"):
                theirs = results.seed_means(track, other, design)
                if method not in (other, CEILING) and own.shape == theirs.shape:
                    block[f"against_{other}"] = paired(own, theirs)
            out.setdefault(design, {})[method] = block
    return out


def triple(values: Sequence[float | None], digits: int = 1) -> str:
    """Energy / latency / power, or the one that was measured."""
    known = [v for v in values if v is not None and np.isfinite(v)]
    return " / ".join(f"{v:.{digits}f}" for v in known) if known else "not run"


def gain(block: dict[str, Any] | None) -> str:
    """Gain, its standard error over seeds, and over sets."""
    if block is None:
        return ""
    cells = [
        f"{g:+.1f} ± {s:.1f} ({d:.1f})"
        for g, s, d in zip(block["gain"], block["se_seeds"], block["se_sets"], strict=True)
        if g is not None and np.isfinite(g)
    ]
    return "; ".join(cells)


def public_section(tables: dict[str, dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    titles = {
        "protran": "protran: five sets on four machines, energy / latency / power",
        "hat_latency": "hat_latency: eight sets on three machines, latency",
        "wilkins_llm": "wilkins_llm: calls of large models, five sets on three machines, energy / latency / mean power",
        "mlenergy_llm": "mlenergy_llm: serving on two machines, energy / latency / mean power",
    }
    for track, title in titles.items():
        table = tables.get(track)
        if not table:
            continue
        lines += [f"### {title}", ""]
        designs = [d for d in DESIGNS if d in table]
        lines.append("| predictor from five points | " + " | ".join(DESIGN_NAMES[d] for d in designs) + " |")
        lines.append("|---|" + "---|" * len(designs))
        for method in ORDER[:-1]:
            cells = [triple(table[d][method]["mean"]) if method in table[d] else "" for d in designs]
            if any(cells):
                lines.append(f"| {NAMES[method]} | " + " | ".join(cells) + " |")
        ceiling = table.get("all rows", {}).get(CEILING)
        if ceiling:
            lines.append(f"| {NAMES[CEILING]} | {triple(ceiling['mean'])} |" + " |" * (len(designs) - 1))
        lines.append("")
        if "metas" in table.get("random", {}):
            lines += ["Gain of `metas` on identical draws: mean ± standard error over seeds (over sets).", ""]
            lines += ["| against | " + " | ".join(DESIGN_NAMES[d] for d in designs) + " |"]
            lines += ["|---|" + "---|" * len(designs)]
            for method in ORDER[:-2]:
                own = [_turned(table[d].get(method, {}).get("against_metas")) for d in designs]
                if any(own):
                    lines.append(f"| {NAMES[method]} | " + " | ".join(gain(block) for block in own) + " |")
            lines.append("")
            lines += [f"Better than `metas` on the mean over sets: {_ahead(table, designs)}.", ""]
            best = min(designs, key=lambda d: np.nanmean(np.array(table[d]["metas"]["mean"], dtype=float)))
            lines += [f"Per set, {DESIGN_NAMES[best]}: mean of `metas`, then of the roofline.", ""]
            lines += ["| set | `metas` | roofline |", "|---|---|---|"]
            for name, own_mean in table[best]["metas"]["sets"].items():
                lines.append(f"| {name} | {triple(own_mean)} | {triple(table[best]['roofline']['sets'][name])} |")
            lines.append("")
    return lines


def _ahead(table: dict[str, Any], designs: Sequence[str]) -> str:
    """Rivals with a smaller mean error, by design and metric."""
    found = []
    for design in designs:
        own = table[design]["metas"]["mean"]
        for method in ORDER[:-2]:
            theirs = table[design].get(method, {}).get("mean", own)
            better = [m for m, a, b in zip(METRICS, own, theirs, strict=True) if a is not None and b < a]
            if better:
                found.append(f"{NAMES[method]} ({DESIGN_NAMES[design]}: {', '.join(better)})")
    return "; ".join(found) or "none"


def _turned(block: dict[str, Any] | None) -> dict[str, Any] | None:
    """A rival's difference to `metas` as the gain of `metas`."""
    return None if block is None else {**block, "gain": [-g if np.isfinite(g) else g for g in block["gain"]]}


def _over_devices(simulators: dict[str, Any]) -> str:
    """Means over the simulators in a sentence, and how much the intervals hold."""

    def mean(design: str, method: str) -> str:
        return triple(mean_over([found["errors"][design][method] for found in simulators.values()]), 2)

    parts = [f"{DESIGN_NAMES[d]} {mean(d, 'metas')} % against {mean(d, 'roofline')} %" for d in DESIGNS]
    inside = 100 * np.mean([found["inside_80"] for found in simulators.values()], axis=0)
    worst = max(found["worst_setting"] for found in simulators.values())
    return (
        f"Mean over devices, `metas` against the roofline: {'; '.join(parts)}. Intervals hold "
        f"{triple(inside.tolist(), 0)} % of the readings, {inside.mean():.0f} % over all. Largest mean error of a "
        f"metric in one setting, points at FLOPs quantiles: {worst:.1f} %."
    )


def gates_section(gates: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    simulators = gates.get("simulators")
    if simulators:
        lines += [
            "### Simulators, against the noise-free truth",
            "",
            "Five measured configurations of 150, repeat noise of 2 % at most; six settings of backbone, length, batch "
            "and width, without those in which a device swaps; 20 draws of random points, six of designed ones. "
            "Training on made-up devices that follow the same equations makes this partly circular. `oracle` knows "
            "the true shape of a device's costs and fits scale and shift of it to the same five. Points are at FLOPs "
            "quantiles unless said otherwise. The roofline "
            "knows what is typical of the other simulators here; in the learning curve and further down it is the one "
            "that ships, which knows made-up devices only.",
            "",
            "| device | `metas` | roofline | `reference` | log-affine | constant | oracle | `metas` by oracle "
            "| random points: `metas` | roofline | in 80 % interval |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for device, found in simulators.items():
            own = found["errors"]["quantiles"]
            cells = [triple(own[m], 2) for m in ("metas", "roofline", "reference", "log_affine", "constant", "oracle")]
            cells.append(triple(found["by_oracle"]["quantiles"], 2))
            cells += [triple(found["errors"]["random"][m], 2) for m in ("metas", "roofline")]
            cells.append(triple([100 * v for v in found["inside_80"]], 0))
            lines.append(f"| {device} | " + " | ".join(cells) + " |")
        lines += ["", _over_devices(simulators), ""]
        lines += ["Learning curve, random points, mean over settings: `metas` (roofline).", ""]
        points = list(next(iter(simulators.values()))["curve"])
        lines += ["| device | " + " | ".join(points) + " |", "|---|" + "---|" * len(points)]
        for device, found in simulators.items():
            cells = []
            for k in points:
                by = found["curve"][k]
                other = f" ({triple(by['roofline'])})" if "roofline" in by and k != "0" else ""
                cells.append(triple(by["metas"]) + other)
            lines.append(f"| {device} | " + " | ".join(cells) + " |")
        lines.append("")
    local = gates.get("local")
    if local:
        floor = local["noise_floor"]
        lines += [
            "### This computer, measured", "",
            f"{local['records']} records of MiniLM. Half width of the interval around a median latency: "
            f"{floor['median_known_to_pct']:.1f} % in the middle, {floor['p90_known_to_pct']:.1f} % at the 90th "
            "percentile. Mean error of latency in percent.", "",
            "| scope | clock | points | `metas` | roofline | constant |", "|---|---|---|---|---|---|",
        ]  # fmt: skip
        scopes = [scope for scope in local if "setting" in scope]
        for scope in scopes:
            for clock in ("cpu", "wall"):
                for design, by in local[scope][clock].items():
                    cells = " | ".join(f"{by[m]:.1f}" for m in ("metas", "roofline", "constant"))
                    lines.append(f"| {scope} | {clock} | {DESIGN_NAMES[design]} | {cells} |")
        best = "; ".join(f"{scope} {local[scope]['all_own_records_in_sample']:.1f} %" for scope in scopes)
        lines += ["", f"The roofline's terms fitted to all own records, processor time, in sample: {best}."]
        lines.append("")
    return lines


def missed(tables: dict[str, dict[str, Any]], gates: dict[str, Any]) -> list[str]:
    """What was aimed at and not reached, from the same figures."""
    found = gates["simulators"]
    ratios = np.array([device["by_oracle"]["quantiles"] for device in found.values()])
    inside = 100 * np.array([device["inside_80"] for device in found.values()])
    local = gates["local"]
    hat = tables["hat_latency"]["d_optimal"]
    behind = [name for name, own in hat["metas"]["sets"].items() if own[1] >= hat["roofline"]["sets"][name][1]]
    return [
        "## Aimed at and not reached", "",
        f"- An error of at most {ORACLE} times the oracle's with the same five points: {ratios.min():.2f} to "
        f"{ratios.max():.2f}; {int((ratios > ORACLE).any(1).sum())} of {len(ratios)} simulators are above in a metric.",
        f"- {PER_SETTING} % of processor time on this computer per setting: "
        f"{local['per setting']['cpu']['quantiles']['metas']:.1f} % "
        f"({local['per setting, one thread']['cpu']['quantiles']['metas']:.1f} % with one thread); {ACROSS} % across "
        f"settings: {local['across settings']['cpu']['quantiles']['metas']:.1f} % "
        f"({local['across settings, one thread']['cpu']['d_optimal']['metas']:.1f} % with one thread and D-optimal "
        "points).",
        f"- Below the roofline on every set of hat_latency: not on {len(behind)} of {len(hat['metas']['sets'])} with "
        "D-optimal points.",
        f"- 80 % intervals on each simulator: they hold {inside.min():.0f} to {inside.max():.0f} % of a metric's "
        "readings.",
        "",
    ]  # fmt: skip


def main() -> None:
    results = Results()
    tables = {t: table_of(results, t) for t in ("protran", "hat_latency", "wilkins_llm", "mlenergy_llm")}
    tables = {t: table for t, table in tables.items() if table}
    (DOCS / "surrogate_public.json").write_text(json.dumps(rounded(tables), indent=1) + "\n")
    lines = [
        "# The surrogate, measured",
        "",
        "Five measurements on a device that nothing was learnt from; mean absolute percentage errors. Made by",
        "`python benchmarks/surrogate/summarise.py` from the files it names.", "",
        "## Public records", "",
        "Each set of other hardware held out; 30 seeds; 60 % of a set's rows are candidates, five are chosen without "
        "labels, all other rows are tested, none left out (`benchmarks/surrogate/protocol.py`). The networks of "
        "`metas` learnt from simulated devices alone; how much its networks and rooflines count, and what else was "
        "tried (docs/decisions/0007), was decided while looking at these same sets, so that the figures are somewhat "
        "kind to it.",
        "",
        *public_section(tables),
    ]  # fmt: skip
    gates = DOCS / "surrogate_gates.json"
    if gates.exists():
        lines += ["## Gate configurations, clean passes", "", *gates_section(json.loads(gates.read_text()))]
        lines += missed(tables, json.loads(gates.read_text()))
    speed = DOCS / "surrogate_speed.json"
    if speed.exists():
        found = json.loads(speed.read_text())
        lines += [
            "## Speed", "", "One thread of the machine that made these tables.", "", "| what | figure |", "|---|---|",
            f"| load the shipped file, predict once (after imports) | {found['load_and_predict_once_ms']:.0f} ms |",
            "| load it, calibrate on five records, predict once | "
            f"{found['load_calibrate_and_predict_once_ms']:.0f} ms |",
            f"| calibrate on five records | {found['calibration_ms']:.1f} ms |",
            f"| predictions in batch | {found['predictions_per_s']:,.0f} per second |",
            f"| price soft gates, with gradient | {found['price_with_gradient_ms']:.2f} ms, "
            f"{found['share_of_step_pct']:.2f} % of a training step of {found['training_step_ms']:.0f} ms |",
            f"| size of the shipped file | {found['file_bytes'] / 1e6:.2f} MB |", "",
        ]  # fmt: skip
    if CARD.exists():
        card = json.loads(CARD.read_text())
        lines += [
            "## The shipped file", "",
            f"`meta_surrogate_v1`: {card['networks']} networks of {card['parameters_each']:,} parameters, trained in "
            f"{card['training_seconds'] / 60:.0f} minutes on one core, together, from {card['made_up_devices']:,} "
            "made-up devices; parts chosen on others of that kind: "
            + ", ".join(f"{name.replace('_', ' ')} {part:.2f}" for name, part in card["shares"].items() if part) + ". "
            "No device of the catalogue and no measurement had a part in it.", "",
        ]  # fmt: skip
    (ROOT / "docs" / "surrogate.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
