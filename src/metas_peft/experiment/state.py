"""What the stages of one run share: its settings, model, data and devices, and what has been counted and noted."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metas_peft.conf import METHODS, CostTerm, RunConfig, dump, to_dict
from metas_peft.conf.notices import device_id, notices
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import UsageError
from metas_peft.core.files import write_text
from metas_peft.core.launched import is_first, processes
from metas_peft.devices import LOCAL, Device, Ledger, is_file, open_device
from metas_peft.experiment.limits import check_budgets, unheld
from metas_peft.experiment.stages import Stages
from metas_peft.experiment.workbench import Workbench, set_threads
from metas_peft.tuning.workers import agreed

logger = logging.getLogger(__name__)


class RunState:
    """State of one run.

    Args:
        config: What to do.
        run_dir: The run's folder.
        bench: Model and data.
        stages: Marks of the run's stages.
        threads: Processor threads in force.
        progress: Whether progress bars are shown.

    Attributes:
        method: The run's own method.
        seed: The run's seed.
        ledger: Counts the measurements made now.
        ledger_rows: Counts of the run's own measurements, those of earlier starts included.
        record_rows: Every measurement as a row.
        notes: Sentences for the report.
    """

    def __init__(
        self, config: RunConfig, run_dir: Path, bench: Workbench, stages: Stages, *, threads: int, progress: bool
    ) -> None:
        self.config, self.dir, self.bench, self.stages, self.progress = config, run_dir, bench, stages, progress
        self.method = METHODS[config.method]
        self.seed = config.training.seed
        self.ledger = Ledger()
        self.ledger_rows: list[dict[str, Any]] = []
        self.record_rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._threads = threads
        self._devices: dict[str, Device] = {}
        self._measured_on: dict[str, tuple[str, str]] = {}  # device -> first stage that measured it, and its identity

    @classmethod
    def open(cls, config: RunConfig, run_dir: Path, bench: Workbench | None, progress: bool) -> "RunState":
        """Look at everything that a run needs, so that mistakes come to light before hours of training.

        Args:
            config: What to do.
            run_dir: The run's folder; nothing is written yet.
            bench: Model and data, if they are not those that the run file names.
            progress: Whether progress bars are shown.

        Raises:
            MetasPeftError: Wrong names, missing data or weights, a device that cannot be opened or has no meter, or a
                folder of another run.
        """
        check_budgets(config, METHODS[config.method])
        threads = set_threads(config.threads)
        told = notices(config)
        for note in told:
            logger.warning(note)
        bench = Workbench.load(config) if bench is None else bench
        # The same settings may name other texts or weights than last time; a resumed run must not mix them. Nor must
        # its stages be trained by different numbers of processes, each of which has a batch of its own.
        shared = {"processes": processes()} if processes() > 1 else {}
        # A device file may say something else by the same name.
        files = {name: open_device(name).identity for name in (config.target, *config.retarget) if is_file(name)}
        described = {"device_files": files} if files else {}
        stages = Stages(run_dir, to_dict(config) | {"contents": bench.digests()} | shared | described)
        state = cls(config, run_dir, bench, stages, threads=threads, progress=progress)
        if shared:
            state.notes.append(
                f"{processes()} processes trained together, each on batches of its own: a step saw {processes()} times "
                "dataset.batch_size texts, and an epoch had that many times fewer steps."
            )
        rivals = (METHODS[name] for name in state.rivals)
        state.notes += [*told, *bench.task.notes, *bench.form.notes, *unheld(config, rivals)]
        if is_first():
            for name in (config.target, *config.retarget):
                state.device(name)
        return state

    def begin(self) -> None:
        """Write the settings; from here on the folder belongs to the run."""
        self.stages.begin()
        if is_first():
            # A run's folder is shown to others, the password in a database's address is not.
            shown = dataclasses.replace(self.config, optuna=dataclasses.replace(self.config.optuna, storage=None))
            write_text(self.dir / "config.yaml", dump(shown))

    @property
    def rivals(self) -> list[str]:
        """Baselines of the run file, under their canonical names, without the method itself."""
        names = [METHODS.resolve(name) for name in self.config.evaluation.baselines]
        return [name for name in dict.fromkeys(names) if name != self.method.name]

    @property
    def uses_surrogate(self) -> bool:
        """Whether the run's own method is steered by the surrogate."""
        return self.method.cost_term is CostTerm.SURROGATE

    @property
    def fits_on_target(self) -> bool:
        """Whether the method or a rival fits a model to target measurements."""
        return any(METHODS[name].cost_term is CostTerm.TARGET for name in (self.method.name, *self.rivals))

    def device(self, name: str) -> Device:
        """A device, opened once per run: `local` keeps its anchor, so that all its measurements share one scale."""
        key = device_id(name)
        if key not in self._devices:
            power = self.config.hardware_profiling.power
            options = {"threads": self._threads, "power": power} if key == LOCAL else {}
            self._devices[key] = open_device(name, ledger=self.ledger, **options)
        return self._devices[key]

    def spec(self, name: str) -> DeviceSpec:
        """Facts of a device, which the first process alone opens: a meter or a board has one user."""
        return agreed(self.device(name).spec if is_first() else None)  # type: ignore[return-value]

    def measured_stage(
        self, name: str, compute: Callable[[Path], dict[str, Any]], *, on: str, trains: bool = False
    ) -> dict[str, Any]:
        """A stage that may call devices: what the ledger counted meanwhile is kept with its facts.

        Args:
            name: Name of the stage.
            compute: Writes files into the stage's folder and returns JSON facts, `records` (rows) among them.
            on: The device that it may call.
            trains: Whether every process of the run computes.

        Returns:
            The facts, with `ledger` (rows) and `identity` of the device, where it measured, added.

        Raises:
            UsageError: An earlier stage measured another device of this name.
        """
        key = device_id(on)

        def counted(folder: Path) -> dict[str, Any]:
            # The first process alone opens devices and measures.
            here = self.device(on).identity if is_first() else None
            earlier, there = self._measured_on.get(key, ("", here))
            if is_first() and there != here:
                raise UsageError(
                    f"The stage {earlier} measured {key} as {there!r}, which is {here!r} now: the numbers do not go "
                    "together. Go on where it was measured, or choose another run_id."
                )
            before = self.ledger.rows()
            facts = compute(folder)
            ledger = _difference(self.ledger.rows(), before)
            return {**facts, "ledger": ledger, "identity": here if ledger else None}

        _, facts = self.stages.run(name, counted, trains=trains)
        if facts.get("identity"):
            self._measured_on.setdefault(key, (name, facts["identity"]))
        self.record_rows += facts["records"]
        return facts


def _difference(after: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ledger rows that were added, with the counts that were added."""
    known = {(r["device"], r["purpose"]): r["count"] for r in before}
    grown = [{**r, "count": r["count"] - known.get((r["device"], r["purpose"]), 0)} for r in after]
    return [row for row in grown if row["count"]]
