"""The report: one HTML file that needs no network, no server and no other file.

plotly.js is inlined once. All text passes through the template's escaping, all data through a JSON block in which
no character can end the block; a content security policy forbids the page to load anything.
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from metas_peft.core.files import write_text
from metas_peft.report.collect import Run, Target, read_run
from metas_peft.report.comparison import baselines_table, members_table, volumes_table
from metas_peft.report.details import (
    budgets_table,
    controller_table,
    fit_table,
    held_out_table,
    ledger_table,
    usage_table,
)
from metas_peft.report.figures import front_figures, hidden_below, parity_figures
from metas_peft.report.summary import half_rule, headline, tiles, warnings
from metas_peft.report.trees import draw_tree
from metas_peft.report.words import (
    METRIC_LABELS,
    ORIGIN_MARKS,
    ORIGIN_MEANING,
    is_share,
    listed,
    metric_name,
    origins_of,
    seconds_text,
    significant,
)

FILE_NAME = "report.html"


def write_report(run_dir: Path) -> Path:
    """Draw (or draw again) the report of a run.

    Args:
        run_dir: Folder with `results.json` and, where the run has one, `controller.json`; nothing else is read.

    Returns:
        Path of `report.html` in that folder, written in one piece.

    Raises:
        CheckpointError: The results are missing, unreadable, or of another schema version.
        OutputError: The folder cannot be written.
    """
    run_dir = Path(run_dir)
    path = run_dir / FILE_NAME
    write_text(path, render(read_run(run_dir)))
    return path


def render(run: Run) -> str:
    """The page as text."""
    return template("report.html.j2", **context(run))


def template(name: str, **context: Any) -> str:
    """A page of ours with its style, scripts and plotly.js inlined."""
    # Imported here: it takes a second, and terminal tables need none of it.
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("metas_peft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = environment.loader
    assert source is not None
    inlined = {
        key: Markup(source.get_source(environment, file)[0])  # noqa: S704 -- our own files
        for key, file in (("css", "report.css"), ("js", "report.js"))
    }
    plotly = Markup(get_plotlyjs())  # noqa: S704 -- the library's own text
    return environment.get_template(name).render(**context, **inlined, plotly=plotly)


def context(run: Run) -> dict[str, Any]:
    """What the template is given; tables and drawings are None where a run did not write them."""
    target = run.target
    retargets = [_device_view(run, other, f"front-{i}") for i, other in enumerate(run.retargets)]
    figures = {"front": front_figures(run, target, target.rivals), "parity": parity_figures(target)}
    figures |= {view["id"]: view["figures"] for view in retargets}
    usage = run.extra["controller"].get("usage") or {}
    return {
        "run": run,
        "headline": headline(run),
        "tiles": tiles(run),
        "rule": half_rule(target),
        "warnings": warnings(run),
        "hidden": hidden_below(run),
        "members": members_table(run, target),
        "gates": gate_maps(target),
        "baselines": baselines_table(run) if run.baselines else None,
        "volumes": volumes_table(run) if target.hypervolume else None,
        "parity": [(m, METRIC_LABELS[m], _error(target, m)) for m in figures["parity"]],
        "fit": fit_table(target),
        "held_out": held_out_table(run),
        "tree": draw_tree(run.controller, usage) if run.controller else None,
        "controller": controller_table(run),
        "usage": usage_table(run),
        "budgets": budgets_table(run),
        "ledger": ledger_table(run),
        "retargets": retargets,
        "seconds": [(name, seconds_text(value)) for name, value in run.extra["seconds"].items()],
        "origin_marks": ORIGIN_MARKS,
        "origin_meaning": ORIGIN_MEANING,
        "metric_labels": METRIC_LABELS,
        "metric_name": metric_name,
        "figures": figures,
        "data": script_data({"figures": figures, "gates": gate_maps(target), "file": run.run_id or "report"}),
        "listed": listed,
        "is_share": is_share(run.quality_metric),
    }


def gate_maps(target: Target) -> list[dict[str, Any]]:
    """Kept heads and FFN blocks per layer of each member that has masks, largest first."""
    members = [p for p in target.front if p.heads or p.ffn_blocks]
    return [
        {
            "name": p.name,
            "heads": p.heads,
            "blocks": p.ffn_blocks,
            "attention": p.attention or tuple(int(any(row)) for row in p.heads),
            "ffn": p.ffn or tuple(int(any(row)) for row in p.ffn_blocks),
        }
        for p in sorted(members, key=lambda p: -p.counts.get("flops", 0.0))
    ]


def _device_view(run: Run, target: Target, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "target": target,
        "figures": front_figures(run, target, target.rivals),
        "members": members_table(run, target),
        "fit": fit_table(target),
        "origins": [(METRIC_LABELS[m], " / ".join(origins_of(target.points, m))) for m in METRIC_LABELS],
    }


def _error(target: Target, metric: str) -> str:
    """Mean absolute percentage error as the run reports it, else over the members drawn."""
    value, n = getattr(target.error, metric), target.error_n
    if value is None:
        pairs = [(getattr(p.predicted, metric), getattr(p.cost, metric)) for p in target.front]
        errors = [abs(said / seen - 1) for said, seen in pairs if said is not None and seen]
        value, n = (100 * sum(errors) / len(errors), len(errors)) if errors else (None, None)
    if value is None:
        return ""
    return f"mean error {significant(value, 2)}\u202f%" + (f", n = {n}" if n else "")


def script_data(data: dict[str, Any]) -> Markup:
    """JSON that is safe inside a script element: `<`, `>`, `&` and line separators are escaped."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 -- escaped above
