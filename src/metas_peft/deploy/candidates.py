"""What a finished run can deploy: its stored members, and everything between them that its largest one contains."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metas_peft.backbones.store import load, read_plan
from metas_peft.core.errors import CheckpointError
from metas_peft.core.files import read_json
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost, random_prefixes
from metas_peft.deploy.prefixes import Largest, dense_shape
from metas_peft.export.members import SUBNETS, StoredMember, dense_of, members_of
from metas_peft.serving.folder import read_results
from metas_peft.surrogate import design

logger = logging.getLogger(__name__)

POINTS = 5
HELD_OUT, EVALUATED, BETWEEN = "held-out texts", "evaluation texts", "between neighbours"
NOT_HELD_OUT = (
    "The run noted no quality on held-out texts, so that evaluation texts choose here: the quality of what is "
    "chosen is a little too good."
)
POOL = 200  # random subnets among which points are designed where a front has too few members


@dataclass(frozen=True)
class Candidate:
    """Something that could be deployed.

    Attributes:
        subnet: What it keeps.
        name: Label for people.
        quality: Headline metric, or where it lies between those of its neighbours on the path.
        quality_of: `held-out texts`, `evaluation texts`, or `between neighbours`: never evaluated itself.
        flops_fraction: FLOPs over the dense model's.
        open: Gives its compact model.
    """

    subnet: Subnet
    name: str
    quality: float
    quality_of: str
    flops_fraction: float
    open: Callable[[], Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class FinishedRun:
    """A run as far as deploying needs it.

    Attributes:
        folder: Its folder.
        results: Its `results.json`.
        shape: Of the dense backbone.
        workload: The pass that was priced and measured.
        members: Stored members, largest first.
        candidates: Largest first.
        notes: Sentences for the report.
    """

    folder: Path
    results: Mapping[str, Any]
    shape: BackboneShape
    workload: Workload
    members: Sequence[StoredMember]
    candidates: Sequence[Candidate]
    notes: Sequence[str]

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return str(self.results.get("run_id", ""))

    @property
    def quality_metric(self) -> str:
        """Headline metric of its task."""
        return str(self.results.get("quality_metric", "quality"))


def open_run(folder: Path) -> FinishedRun:
    """Read a finished run and find out what can be cut from it.

    Args:
        folder: Such as `outputs/demo`.

    Raises:
        CheckpointError: No finished run, no front, or a damaged member.
    """
    results = read_results(folder)
    try:
        workload = Workload(**results["workload"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'results.json'} names no workload ({error}). Run it again.") from error
    members = members_of(folder)
    shape = dense_shape(read_plan(members[0].folder), str(results.get("backbone", "")))
    sizes = _fractions([m.subnet for m in members], shape, workload)
    order = [int(i) for i in np.argsort([-s for s in sizes], kind="stable")]
    members, sizes = [members[i] for i in order], [sizes[i] for i in order]
    quality, quality_of = _recorded_quality(results, members)
    stored = [
        Candidate(m.subnet, m.name, q, quality_of, s, lambda m=m: load(m.folder))
        for m, q, s in zip(members, quality, sizes, strict=True)
    ]
    between, notes = _between(folder, members, stored, shape, workload)
    if quality_of == EVALUATED:
        notes = [NOT_HELD_OUT, *notes]
    candidates = sorted([*stored, *between], key=lambda c: -c.flops_fraction)
    return FinishedRun(folder, results, shape, workload, members, candidates, notes)


def points_to_measure(run: FinishedRun, seed: int) -> list[Candidate]:
    """The five configurations that calibrate: spread over the FLOPs of what may be deployed, ends included.

    Args:
        run: The run.
        seed: Decides the further configurations of a front that has too few.
    """
    pool = list(run.candidates)
    dense = dense_of(run.folder)
    if len(pool) < POINTS and dense is not None and dense.subnet.key not in {c.subnet.key for c in pool}:
        pool.append(Candidate(dense.subnet, dense.name, 0.0, "", 1.0, lambda: load(dense.folder)))
    if len(pool) < POINTS:
        plan = read_plan(run.members[0].folder)
        known = {c.subnet.key for c in pool}
        subnets = random_prefixes(run.shape, POOL, seed=seed)
        further = [_untrained(s, plan, run) for s in subnets if s.key not in known]
        chosen = design([_paper(c, run) for c in further], POINTS - len(pool), "quantiles")
        pool += [further[i] for i in chosen]
    return [pool[i] for i in design([_paper(c, run) for c in pool], POINTS, "quantiles")]


def _untrained(subnet: Subnet, plan: dict[str, Any], run: FinishedRun) -> Candidate:
    """A configuration with random weights: what it costs does not depend on their values."""

    def build() -> Any:
        import torch

        from metas_peft.backbones import compact
        from metas_peft.backbones.store import backbone_of

        architecture, config = backbone_of(plan)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return compact(architecture(config), run.shape, subnet)

    (size,) = _fractions([subnet], run.shape, run.workload)
    return Candidate(subnet, f"{100 * size:.3g} %, untrained", 0.0, "", size, build)


def _paper(candidate: Candidate, run: FinishedRun) -> Any:
    return paper_cost(run.shape, Counts.of(candidate.subnet, run.shape), run.workload)


def _fractions(subnets: Sequence[Subnet], shape: BackboneShape, workload: Workload) -> list[float]:
    """FLOPs over the dense model's."""
    dense = float(paper_cost(shape, Counts.dense(shape), workload).flops)
    return [float(paper_cost(shape, Counts.of(s, shape), workload).flops) / dense for s in subnets]


def _recorded_quality(results: Mapping[str, Any], members: Sequence[StoredMember]) -> tuple[list[float], str]:
    """Quality of each member: on held-out texts where the run noted it, so that evaluation texts choose nothing."""
    controller = results.get("controller") or {}
    noted = controller.get("recorded_quality") or {}
    if controller.get("recorded_texts") == "held-out" and all(m.name in noted for m in members):
        return [float(noted[m.name]) for m in members], HELD_OUT
    try:
        evaluated = {str(row["key"]): float(row["quality"]) for row in results["front"]}
        return [evaluated[m.key] for m in members], EVALUATED
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"results.json notes no quality of a member that {SUBNETS} lists ({error}). Run it again."
        ) from error


def _between(
    folder: Path, members: Sequence[StoredMember], stored: Sequence[Candidate], shape: BackboneShape, workload: Workload
) -> tuple[list[Candidate], list[str]]:
    """What lies on the run's path between its largest and its smallest member, and why there may be nothing."""
    try:
        path = [Subnet.from_dict(s) for s in read_json(folder / SUBNETS).get("path", [])]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{folder / SUBNETS} cannot be read ({error}). Run it again.") from error
    known = {m.subnet.key for m in members}
    sizes = dict(zip((s.key for s in path), _fractions(path, shape, workload), strict=True))
    inside = [
        s for s in path
        if s.key not in known and stored[-1].flops_fraction < sizes[s.key] < stored[0].flops_fraction
    ]  # fmt: skip
    if not inside:
        return [], []
    largest = Largest.open(members[0], shape.model_id)
    if not all(largest.gives(m) for m in members[1:]):
        return [], ["The run's members are no prefixes of its largest one, so nothing between them can be cut."]
    known_sizes = [c.flops_fraction for c in reversed(stored)]
    known_quality = [c.quality for c in reversed(stored)]
    return [
        Candidate(
            s, f"{100 * sizes[s.key]:.3g} %", float(np.interp(sizes[s.key], known_sizes, known_quality)), BETWEEN,
            sizes[s.key], lambda s=s: largest.cut(s),
        )
        for s in inside
    ], []  # fmt: skip
