"""Super-Natural-Instructions (Wang et al. 2022): many tasks, each told by a definition and a few examples.

The release's own layout: `tasks/taskNNN_*.json` with the definition, examples and instances of one task each, and
`splits/default/{train,test}_tasks.txt` that say which tasks are trained on and which, other ones, are evaluated on.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metas_peft.core.errors import DatasetError
from metas_peft.tasks.hub import SplitColumns
from metas_peft.tasks.prompts import PromptTask, Row
from metas_peft.tasks.tables import Columns
from metas_peft.tasks.wording import exact_match, rouge_l

PER_TASK = 100  # the first instances of a task: what the benchmark trains and evaluates on
SHOWN = 2  # positive examples in a prompt, as in the benchmark's usual setting
COLUMNS = ("definition", "examples", "input", "output")


def ask(row: Row) -> tuple[str, Sequence[str]]:
    """Definition, positive examples, then the instance; all its outputs are accepted."""
    shown = [f"Input: {e['input'].strip()}\nOutput: {e['output'].strip()}" for e in row["examples"][:SHOWN]]
    asked = f"Input: {row['input'].strip()}\nOutput:"
    return "\n\n".join([f"Definition: {row['definition'].strip()}", *shown, asked]), row["output"]


def read_folder(folder: Path) -> SplitColumns | None:
    """The release's folder; of a folder with task files and no lists of tasks a part of the instances is held back."""
    root = folder / "tasks" if (folder / "tasks").is_dir() else folder
    files = {path.stem: path for path in sorted(root.glob("task*.json"))}
    if not files:
        return None
    lists = {split: folder / "splits" / "default" / f"{split}_tasks.txt" for split in ("train", "test")}
    if not all(path.is_file() for path in lists.values()):
        return SplitColumns(_columns(list(files.values())), None, f"local:{root}", str(root), str(root))
    parts = {split: _listed(path, files) for split, path in lists.items()}
    return SplitColumns(
        _columns(parts["train"]), _columns(parts["test"]), f"local:{folder}", str(lists["train"]), str(lists["test"])
    )


def _listed(path: Path, files: dict[str, Path]) -> list[Path]:
    """Task files that a list names and that are here."""
    names = path.read_text(encoding="utf-8").split()
    found = [files[name] for name in names if name in files]
    if not found:
        raise DatasetError(f"None of the {len(names)} tasks in {path} has a file in the folder of the tasks.")
    return found


def _columns(paths: Sequence[Path]) -> Columns:
    columns: Columns = {name: [] for name in COLUMNS}
    for path in paths:
        for values in _instances(path):
            for name, value in zip(COLUMNS, values, strict=True):
                columns[name].append(value)
    return columns


def _instances(path: Path) -> list[tuple[Any, ...]]:
    try:
        task = json.loads(path.read_text(encoding="utf-8"))
        definition = task["Definition"]
        text = " ".join(definition) if isinstance(definition, list) else str(definition)
        examples, instances = task["Positive Examples"], task["Instances"][:PER_TASK]
        # Early files have one output where later ones have a list of them.
        return [
            (text, examples, i["input"], i["output"] if isinstance(i["output"], list) else [i["output"]])
            for i in instances
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} is not laid out as a task of Natural-Instructions ({error!r}): Definition, Positive Examples and "
            "Instances with input and output were expected."
        ) from error


NATURAL_INSTRUCTIONS = PromptTask(
    name="natural_instructions",
    ask=ask,
    columns=COLUMNS,
    text_metrics={"rouge_l": rouge_l, "exact_match": exact_match},
    max_new_tokens=128,
    read_folder=read_folder,
    remedy=(
        "Get the release (git clone https://github.com/allenai/natural-instructions) and give dataset.path its folder, "
        "or put it under METAS_DATA as natural_instructions."
    ),
)
