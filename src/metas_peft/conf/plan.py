"""A matrix of methods, backbones and tasks as one run file per cell, named and set as the source's own files are.

    SPEC (three lists) x conf/study/source.yaml (what methods share, what each adds) -> run files

A matrix says what a study varies and what it sets differently from the source's files; nothing else. Every cell is
checked as a run file before the first one is written.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from metas_peft.conf import values, yaml12
from metas_peft.conf.compose import load
from metas_peft.conf.keys import keys_of, searched
from metas_peft.conf.methods import METHODS, Shape
from metas_peft.conf.runfile import RunFile
from metas_peft.conf.schema import RunConfig
from metas_peft.core.errors import OutputError, RunFileError, UnknownKeyError, UnknownNameError, nearest
from metas_peft.core.files import write_text
from metas_peft.tasks import TASKS

SPEC_KEYS = ("methods", "backbones", "tasks", "iterations", "device", "settings")


@dataclass(frozen=True)
class Cell:
    """One run file of a study.

    Attributes:
        name: Its run id; the file adds `.yaml`.
        method: Canonical name of the method.
        backbone: Backbone, as the matrix spells it.
        task: Task, as the matrix spells it.
        iteration: Repetition, from 1; the k-th has the study's seed + k - 1.
        data: Nested values in the schema's names.
    """

    name: str
    method: str
    backbone: str
    task: str
    iteration: int
    data: Mapping[str, Any]

    def text(self, spec: str) -> str:
        """The run file."""
        return f"# Written by `metas plan` from {spec}.\n{yaml12.write(dict(self.data))}"


def read_plan(path: Path) -> list[Cell]:
    """The cells of a matrix file, in its order.

    Raises:
        UnknownNameError: There is no such file, or a method, task or device that does not exist.
        UnknownKeyError: A key that neither a matrix nor a run file has.
        RunFileError: A value that does not fit, or two cells of one name; with the place.
    """
    if not path.is_file():
        raise UnknownNameError(f"No matrix file at {path}; write one with methods, backbones and tasks.")
    document = yaml12.read(path)
    return plan(document.data, document.where)


def plan(spec: Mapping[str, Any], where: values.Where = values.nowhere) -> list[Cell]:
    """As `read_plan`, from a mapping.

    Args:
        spec: `methods`, `backbones`, `tasks`: names, or names with settings; `iterations`: how many, or which;
            `device`: the target of all; `settings`: run-file keys of all.
        where: Place of each key, for messages.
    """
    for key in spec:
        if key not in SPEC_KEYS:
            place = f"{where((key,))}: " if where((key,)) else ""
            raise UnknownKeyError(f"{place}unknown key {key!r} of a matrix; {nearest(key, SPEC_KEYS)}")
    study = _study()
    everything = _settings(spec.get("settings") or {}, where, ("settings",))
    if spec.get("device"):
        everything = merged({"hardware_profiling": {"target_device": str(spec["device"])}}, everything)
    cells: dict[str, Cell] = {}
    for method, of_method in _entries(spec, "methods", where):
        for backbone, of_backbone in _entries(spec, "backbones", where, under="model"):
            for task, of_task in _entries(spec, "tasks", where, under="dataset"):
                for iteration in _iterations(spec.get("iterations", 1), where):
                    layers = (
                        _of_method(study, method), _of_task(task),
                        everything, of_backbone, of_task, of_method,
                    )  # fmt: skip
                    cell = _cell(method, backbone, task, iteration, layers)
                    if cell.name in cells:
                        raise RunFileError(
                            f"Two cells of the matrix are called {cell.name}; name each method, backbone and task once."
                        )
                    cells[cell.name] = cell
    return list(cells.values())


def write_plan(cells: Sequence[Cell], folder: Path, *, spec: str, force: bool = False) -> list[Path]:
    """Write one run file per cell; all of them are checked first.

    Args:
        cells: What to write.
        folder: Where to; made if absent.
        spec: Name of the matrix, for the files' first line.
        force: Whether files that say something else are replaced.

    Raises:
        OutputError: A file of that name is there and says something else.
    """
    paths = [folder / f"{cell.name}.yaml" for cell in cells]
    texts = [cell.text(spec) for cell in cells]
    for path, text in zip(paths, texts, strict=True):
        if path.exists() and not force and path.read_text(encoding="utf-8") != text:
            raise OutputError(f"{path} is there already and says something else. Choose another --out, or add --force.")
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text)
    return paths


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both have a value, `top` has it."""
    result = dict(base)
    for name, value in top.items():
        below = result.get(name)
        if name == "search_space" and isinstance(value, Mapping) and isinstance(below, Mapping):
            result[name] = _spaces(below, value)
        else:
            result[name] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def _spaces(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Two search spaces as one: a range with a type takes the place of that of its key, whatever either is called."""
    anew = {_key_of(name) for name, span in top.items() if isinstance(span, Mapping) and "type" in span}
    kept = {name: span for name, span in base.items() if _key_of(name) not in anew}
    return merged(kept, top)


def _key_of(name: str) -> str:
    """The dotted path that a name in a search space means; a name that means none is refused where the file is read."""
    try:
        return searched(name).path
    except UnknownKeyError:
        return name


def role(method: str) -> str:
    """What file names call a method: `proposed`, `comparative-1`, ..., or its own name."""
    named = [alias for alias in METHODS.aliases(method) if re.fullmatch(r"proposed|comparative-\d+", alias)]
    return named[0] if named else METHODS.resolve(method)


def _study() -> Mapping[str, Any]:
    inside = resources.files("metas_peft.conf") / "study" / "source.yaml"
    with resources.as_file(inside) as path:
        return yaml12.read(path, "the study's settings").data


def _of_method(study: Mapping[str, Any], name: str) -> dict[str, Any]:
    method = METHODS[name]
    gated = study["gated"] if method.shape is Shape.GATED else {}
    own = study["methods"][method.settings_of]
    return values.normalise(merged(merged(study["common"], gated), own))


def _of_task(name: str) -> dict[str, Any]:
    if name not in TASKS:
        return {"dataset": {"name": name}}  # a path or a repository; whoever loads it says what is wrong with it
    task = TASKS[name]
    source = {"source": f"huggingface:{task.repository}"} if task.repository else {}
    return {"dataset": {"name": task.name, **source}}


def _cell(method: str, backbone: str, task: str, iteration: int, layers: Sequence[Mapping[str, Any]]) -> Cell:
    name = re.sub(r"[^A-Za-z0-9.+_-]+", "-", f"{role(method)}-iter{iteration}-{backbone}-{task}")
    resolved = METHODS.resolve(method)
    data: dict[str, Any] = {"run_id": name, "method": resolved, "model": {"name": backbone}}
    for layer in layers:
        data = merged(data, layer)
    seed = data["training"]["seed"] + iteration - 1
    data = _ordered(merged(data, {"training": {"seed": seed}}), RunConfig)
    load(RunFile(name, data))  # refuses what a run would refuse
    return Cell(name, resolved, backbone, task, iteration, data)


def _entries(
    spec: Mapping[str, Any], key: str, where: values.Where, under: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of one list of the matrix, each with the settings that stand beside it."""
    given = spec.get(key)
    place = f"{where((key,))}: " if where((key,)) else ""
    if not isinstance(given, list) or not given:
        raise RunFileError(
            f"{place}{key} expects a list of names, such as [{_EXAMPLES[key]}], not {values.seen(given)}."
        )
    for i, entry in enumerate(given):
        if isinstance(entry, str):
            yield entry, {}
            continue
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise RunFileError(
                f"{place}{key} expects names, or entries with a name and settings, not {values.seen(entry)}."
            )
        rest = {k: v for k, v in entry.items() if k != "name"}
        # Beside a backbone stand keys of `model`, beside a task those of `dataset`, beside a method any.
        yield entry["name"], _settings({under: rest} if under else rest, where, (key, str(i)))


_EXAMPLES = {"methods": "proposed, comparative-1", "backbones": "Llama-2-7B", "tasks": "SST-2"}


def _iterations(given: Any, where: values.Where) -> Sequence[int]:
    numbers = list(range(1, given + 1)) if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(numbers, list) or not numbers or not all(isinstance(n, int) and n >= 1 for n in numbers):
        place = f"{where(('iterations',))}: " if where(("iterations",)) else ""
        raise RunFileError(f"{place}iterations expects a number from 1, or a list of them, not {values.seen(given)}.")
    return numbers


def _settings(data: Any, where: values.Where, at: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise RunFileError(f"{where(at) or '.'.join(at)}: keys of a run file were expected, not {values.seen(data)}.")
    return values.normalise(data, lambda path: where((*at, *path)))


def _ordered(data: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Keys in the order of the schema."""
    known = keys_of(kind)
    order = [name for name in known if name in data]
    return {
        name: _ordered(data[name], known[name].kind) if _is_section(known[name].kind) else data[name] for name in order
    }


def _is_section(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)
