"""Schema defaults, then a run file, then overrides: one frozen `RunConfig`, composed by Hydra.

`load` gives the configuration; `launch` runs a job with it, once or for every job of a sweep.
"""

import dataclasses
import hashlib
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metas_peft.conf import groups, values
from metas_peft.conf.methods import METHODS, obstacle
from metas_peft.conf.notices import check_devices
from metas_peft.conf.overrides import Override, as_text, paths_of, translate
from metas_peft.conf.runfile import RunFile, read_run
from metas_peft.conf.schema import RunConfig
from metas_peft.core.errors import OutputError, UsageError

T = TypeVar("T")
logger = logging.getLogger(__name__)

_NODE = "metas_run"
_GATE_KEYS = ("granularity", "hard_concrete_temperature", "gate_sparsity_regulariser")
# Hydra's own settings: the run's folder is Hydra's folder, and Hydra neither moves there nor writes nor logs.
_HYDRA = {
    "job": {"name": "run", "chdir": False},
    "run": {"dir": "${metas_home:${output_dir}}/${run_id}"},
    "sweep": {
        "dir": "${metas_home:${output_dir}}/${run_id}.multirun",
        "subdir": "${run_id}-${metas_differences:${hydra.overrides.task}}",
    },
    "output_subdir": None,
}


@dataclass(frozen=True)
class Flags:
    """Hydra's command-line flags that `metas run` passes on."""

    multirun: bool = False
    cfg: str | None = None
    resolve: bool = False
    package: str | None = None
    info: str | None = None
    config_dir: str | None = None

    @property
    def only_shows(self) -> bool:
        """Whether something is printed and nothing run."""
        return self.cfg is not None or self.info is not None

    def arguments(self) -> list[str]:
        """The flags in Hydra's spelling."""
        named = {"--cfg": self.cfg, "--package": self.package, "--info": self.info, "--config-dir": self.config_dir}
        result = [part for flag, value in named.items() if value is not None for part in (flag, value)]
        return result + ["--multirun"] * self.multirun + ["--resolve"] * self.resolve


def load(run: str | Path | RunFile, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of one run.

    Args:
        run: Path of a run file, name of a packaged one, or one that is read already.
        overrides: `key=value` in Hydra's grammar; no sweeps.

    Raises:
        UnknownNameError: No such run file, or no such method.
        UsageError: A key, a value or an override that does not fit; the message names place and remedy.
    """
    file = run if isinstance(run, RunFile) else read_run(str(run))
    translated = translate(overrides)
    if swept := [o.written for o in translated if o.sweeps]:
        raise UsageError(f"{swept[0]!r} stands for several runs. Add --multirun, or write a list as key=[a,b].")
    return _dry(file, translated, Flags())


def launch(run: str, overrides: Sequence[str], flags: Flags, job: Callable[[RunConfig, Path], T]) -> list[T]:
    """Run a job through Hydra: once, or with `flags.multirun` for every combination of swept values.

    Args:
        run: Path of a run file or name of a packaged one.
        overrides: `key=value` in Hydra's grammar, Hydra's own settings included.
        flags: Hydra's flags.
        job: Receives the configuration and the run's folder, which exists.

    Returns:
        What the jobs returned that ran in this process; a launcher may run them elsewhere.

    Raises:
        Exception: What the first job that failed raised, after all jobs have had their turn.
        UsageError, UnknownNameError: As `load`, before anything is written.
        OutputError: The run's folder cannot be written.
    """
    file = read_run(run)
    translated = translate(overrides)
    if not flags.multirun and (swept := [o.written for o in translated if o.sweeps]):
        raise UsageError(f"{swept[0]!r} stands for several runs. Add --multirun, or write a list as key=[a,b].")
    config = _dry(file, translated, flags)
    if not flags.only_shows:
        _check_folder(Path(config.output_dir))
    outcomes: list[T] = []
    failures: list[Exception] = []
    parent = os.getpid()

    def task(composed: DictConfig) -> T | None:
        settings = HydraConfig.get()
        folder = Path(settings.runtime.output_dir)
        job_config = _finish(composed, file, list(settings.overrides.task))
        if settings.mode == RunMode.MULTIRUN:
            job_config = dataclasses.replace(job_config, run_id=folder.name, output_dir=str(folder.parent))
        logger.info("%s: run %s in %s", job_config.method, job_config.run_id, folder)
        try:
            outcome = job(job_config, folder)
        except Exception as error:
            if os.getpid() != parent:  # a launcher's own process hands it on in its own way
                raise
            # Hydra would print its own headline above ours, and a sweep goes on with the other jobs.
            failures.append(error)
            if settings.mode == RunMode.MULTIRUN:
                logger.error("%s: %s", job_config.run_id, error)
            return None
        outcomes.append(outcome)
        return outcome

    _register(file)
    # What is shown has every key, so that `auto` would read it differently from the file that it came from.
    settled = [f"++front={config.front}"] if flags.only_shows else []
    arguments = ["metas run", *flags.arguments(), *(o.text for o in translated), *settled]
    with _speaking_for_hydra(), _hydra_environment(arguments):
        hydra.main(version_base="1.3", config_path=None, config_name=_NODE)(task)()
    if failures:
        raise failures[0]
    return outcomes


def jobs(run: str, overrides: Sequence[str]) -> list[list[str]]:
    """Overrides of each job of a sweep, for launchers of our own; folders are those that `launch` would use.

    Args:
        run: Path of a run file or name of a packaged one.
        overrides: `key=value` in Hydra's grammar; some stand for several values.

    Raises:
        UsageError, UnknownNameError: As `load`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    file, parser = read_run(run), OverridesParser.create()
    translated = translate(overrides)
    config = _dry(file, translated, Flags())
    choices = [
        [f"{o.key}={v}" for v in parser.parse_override(o.text).sweep_string_iterator()] if o.sweeps else [o.text]
        for o in translated
    ]
    folder = str(Path(config.output_dir).resolve() / f"{config.run_id}.multirun")
    found = []
    for chosen in itertools.product(*choices):
        told = [text.lstrip("+") for text in chosen]
        named = [t for t in told if not t.startswith(("output_dir=", "run_id=", "hydra.", "hydra/"))]
        name = f"{config.run_id}-{_differences(named)}"
        found.append([*named, f"run_id={as_text(name)}", f"output_dir={as_text(folder)}"])
    return found


def _dry(file: RunFile, translated: Sequence[Override], flags: Flags) -> RunConfig:
    """The configuration (of the first job of a sweep), composed without running anything."""
    _register(file)
    texts = [o.sample for o in translated if o.path is not None or o.text.startswith("~")]
    with _speaking_for_hydra(), hydra.initialize(version_base="1.3", config_path=None):
        composed = hydra.compose(_NODE, overrides=texts)
    return _finish(composed, file, texts)


def _register(file: RunFile) -> None:
    """Put defaults and run file into Hydra's store as one node."""
    base = values.to_dict(RunConfig(run_id=file.stem))
    node: dict[str, Any] = {
        "defaults": ["_self_", {"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}],
        "hydra": _HYDRA,
        **_merged(base, file.data),
    }
    ConfigStore.instance().store(name=_NODE, node=node)
    groups.register()


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in top.items():
        below = result.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = _merged(below, value)
        result[name] = value
    return result


def _finish(composed: DictConfig, file: RunFile, texts: Sequence[str]) -> RunConfig:
    """Check the composed values, resolve names and `auto`, and freeze."""
    set_here = paths_of(texts)

    def where(path: tuple[str, ...]) -> str:
        for depth in range(len(path), 0, -1):
            dotted = ".".join(path[:depth])
            if dotted in set_here:
                return set_here[dotted]
            inside = next((text for name, text in set_here.items() if name.startswith(f"{dotted}.")), None)
            if inside is not None:
                return inside
            if dotted in file.lines:
                return f"{file.name}, line {file.lines[dotted]}"
        return ""

    with _speaking_for_hydra():
        data = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(data, dict)
    config = values.build({str(k): v for k, v in data.items()}, where)
    data_path = config.dataset.path
    config = dataclasses.replace(
        config,
        given=file.given | frozenset(set_here),
        output_dir=_home(config.output_dir),
        dataset=dataclasses.replace(config.dataset, path=None if data_path is None else _home(data_path)),
    )
    method = METHODS[config.method]
    if method.changes:
        config = values.replace(config, method.changes)
    check_devices(config)
    baselines = tuple(dict.fromkeys(METHODS.resolve(b) for b in config.evaluation.baselines))
    obstacles = {name: obstacle(method, METHODS[name]) for name in baselines}
    if "evaluation.baselines" in config.given:
        for name, reason in obstacles.items():
            if reason:
                raise UsageError(
                    f"{where(('evaluation', 'baselines')) or 'evaluation.baselines'}: {name} cannot be a baseline of "
                    f"{method.name}, since it {reason}. Run it by itself with method={name}."
                )
    baselines = tuple(name for name in baselines if not obstacles[name])
    return dataclasses.replace(
        config,
        method=method.name,
        front=_front(config),
        evaluation=dataclasses.replace(config.evaluation, baselines=baselines),
    )


def _front(config: RunConfig) -> Any:
    """`auto` resolved: gates where somebody configured gates."""
    if config.front != "auto":
        return config.front
    return "gates" if any(f"model.gating.{name}" in config.given for name in _GATE_KEYS) else "nested"


def _check_folder(folder: Path) -> None:
    """Fail in one sentence before Hydra makes the folder in its own way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot make the output folder {folder}: {(error.strerror or str(error)).lower()}. "
            "Choose another with output_dir=DIR."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"Cannot write into {folder}: permission denied. Choose another with output_dir=DIR.")


def _differences(overrides: Sequence[str]) -> str:
    """Folder name of one job of a sweep: what it was told, short enough for a file system."""
    told = sorted(t.lstrip("+") for t in overrides if not t.lstrip("+").startswith(("output_dir=", "run_id=")))
    plain = "+".join(told).translate({ord(c): None for c in "\"'"})
    text = re.sub(r"[^A-Za-z0-9.=+~-]+", "_", plain) or "default"
    # Other names might come to the same, such as org/a and org_a; brackets and commas of lists do not tell runs apart.
    if len(text) <= 100 and not re.search(r"[^A-Za-z0-9.=+~_,:\[\]{}()-]", plain):
        return text
    return f"{text[:80]}-{hashlib.sha256(','.join(told).encode()).hexdigest()[:8]}"


def _home(path: str) -> str:
    """A path with the home folder for a leading `~`, as a shell reads it."""
    return str(Path(path).expanduser()) if path == "~" or path.startswith(("~/", "~\\")) else path


OmegaConf.register_new_resolver("metas_differences", _differences, replace=True)
OmegaConf.register_new_resolver("metas_home", _home, replace=True)


@contextmanager
def _hydra_environment(arguments: list[str]) -> Iterator[None]:
    """Hydra reads `sys.argv`, and hands exceptions on only when a variable asks for it."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = arguments, "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


@contextmanager
def _speaking_for_hydra() -> Iterator[None]:
    """Errors of Hydra and OmegaConf as one sentence of ours."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UsageError(f"The configuration cannot be composed: {lines[0] if lines else error!r}") from error
