"""One experiment, from a run file to a report: stages that read and write files."""

from metas_peft.experiment.pipeline import run

__all__ = ["run"]
