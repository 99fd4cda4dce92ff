"""Errors, named by cause, under one root.

A message says what was seen, what was expected and what to do. The command line prints the message of a
`MetasPeftError` as one sentence and exits with 1 (`UsageError`: 2); a traceback appears only with `--debug`.
"""

import difflib
from collections.abc import Iterable, Mapping


class MetasPeftError(Exception):
    """Root of every error that this project raises on purpose."""


class UsageError(MetasPeftError, ValueError):
    """The command line or a run file asks for something that does not exist (exit status 2)."""


class UnknownNameError(MetasPeftError, LookupError):
    """A name that no catalogue entry, alias or registered class carries."""


class UnknownKeyError(UsageError):
    """A key in a run file or an override that the schema does not know."""


class RunFileError(UsageError):
    """A run file that cannot be read as YAML, or whose value has the wrong type."""


class InvalidRecordError(MetasPeftError, ValueError):
    """A profile record with a missing, negative, non-finite or repeated entry."""


class MeterUnavailableError(MetasPeftError, RuntimeError):
    """A meter that does not exist here or stopped answering."""


class MeterPermissionError(MeterUnavailableError):
    """A meter that exists but may not be read by this user."""


class DeviceFileError(MetasPeftError, ValueError):
    """A device file with a missing, unknown or impossible entry."""


class MeasurementError(MetasPeftError, RuntimeError):
    """A measurement that ended without a number that can be trusted."""


class CalibrationError(MetasPeftError, ValueError):
    """Calibration records that cannot carry the fit that was asked for."""


class CheckpointError(MetasPeftError, RuntimeError):
    """A stored artefact that is truncated, of another version, or belongs to something else."""


class ExportError(MetasPeftError, RuntimeError):
    """An artefact that cannot be made here, or that does not answer as the model it was made of."""


class SubnetError(MetasPeftError, ValueError):
    """A choice of layers, heads, blocks or ranks that no model can take."""


class UnsupportedBackboneError(MetasPeftError, TypeError):
    """A model whose layers, heads and projections the project cannot locate."""


class BackboneUnavailableError(MetasPeftError, RuntimeError):
    """Weights that are neither on this machine nor reachable."""


class DatasetError(MetasPeftError, ValueError):
    """A data set that is missing, empty, or carries labels outside their range."""


class DatasetUnavailableError(DatasetError):
    """A data set that is neither on this machine nor reachable."""


class BudgetInfeasibleError(MetasPeftError, ValueError):
    """Budgets that no member of the front can meet, or that contradict each other."""


class TrainingDivergedError(MetasPeftError, ArithmeticError):
    """A loss that is no longer a finite number."""


class OutOfMemoryError(MetasPeftError, MemoryError):
    """A model or a batch that the memory of the device that trains it, or of the computer, has no room for."""


class StoppedError(MetasPeftError, RuntimeError):
    """Another process of the same run has stopped."""


class ControllerTooLargeError(MetasPeftError, ValueError):
    """A controller that does not fit its byte budget."""


class OutputError(MetasPeftError, OSError):
    """An output folder or file that cannot be written."""


def nearest(name: str, known: Iterable[str], aliases: Mapping[str, str] | None = None) -> str:
    """End of a sentence that names the nearest known spelling, and all of them when there are few.

    Args:
        name: What the user wrote.
        known: What would have been accepted.
        aliases: Further accepted spellings -> the known one that each stands for.

    Returns:
        Text such as `did you mean 'minilm'? Known: bert-base, minilm.`
    """
    names = sorted(set(known))
    spelled = {a.lower(): n for a, n in (aliases or {}).items()} | {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    hint = f"did you mean {spelled[close[0]]!r}? " if close else ""
    listing = ", ".join(names[:25]) + (", ..." if len(names) > 25 else "")
    return f"{hint}Known: {listing}."
