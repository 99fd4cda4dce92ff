"""Small sets of prompts and answers, made up here, in the layouts of the real ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_natural_instructions(folder: Path, name: str = "", *, instances: int = 12) -> Path:
    """Two tasks to train on and one to evaluate on, in the release's layout; gives the folder.

    Args:
        folder: Where to.
        name: Not used: all writers are called alike.
        instances: Instances of each task.
    """
    letters = "abcdefghij"
    tasks = {
        "task001_repeat": (
            ["Repeat the word.", "Do not change it."],
            [("dog", "dog"), ("cat", "cat")],
            [(f"{letters[n % 10]}{letters[n // 10 % 10]}{n}", [f"{letters[n % 10]}{letters[n // 10 % 10]}{n}"])
             for n in range(instances)],
        ),
        "task002_count": (
            ["Count the letters."],
            [("dog", "3")],
            [(letters[: n % 9 + 1] + f" ({n})", str(n % 9 + 1)) for n in range(instances)],  # one output, as once usual
        ),
        "task003_opposite": (
            ["Say the opposite of the word."],
            [("hot", "cold"), ("big", "small"), ("old", "new")],
            [(f"word {n}", [f"opposite {n}", f"another opposite {n}"]) for n in range(instances)],
        ),
    }  # fmt: skip
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    for task, (definition, shown, asked) in tasks.items():
        content = {
            "Definition": definition,
            "Positive Examples": [{"input": i, "output": o, "explanation": ""} for i, o in shown],
            "Negative Examples": [],
            "Instances": [{"id": f"{task}-{k}", "input": i, "output": o} for k, (i, o) in enumerate(asked)],
        }
        (folder / "tasks" / f"{task}.json").write_text(json.dumps(content), encoding="utf-8")
    lists = folder / "splits" / "default"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train_tasks.txt").write_text("task001_repeat\ntask002_count\n", encoding="utf-8")
    (lists / "test_tasks.txt").write_text("task003_opposite\n", encoding="utf-8")
    return folder


def write_gsm8k(folder: Path, name: str = "", *, rows: int = 24) -> Path:
    """Sums with worked answers, in GSM8K's layout; gives the folder."""

    def example(a: int, b: int) -> dict[str, str]:
        total = f"<<{a}+{b}={a + b}>>{a + b}"
        return {"question": f"How many are {a} and {b}?", "answer": f"{a} and {b} are {total}.\n#### {a + b}"}

    _write_lines(folder / "train.jsonl", [example(n, n % 3) for n in range(rows)])
    _write_lines(folder / "test.jsonl", [example(rows + n, 3) for n in range(max(4, rows // 4))])
    return folder


def write_math(folder: Path, name: str = "", *, rows: int = 12) -> Path:
    """Fractions with boxed answers, one file each, in the layout of MATH's release; gives the folder."""
    for split, shift in (("train", 0), ("test", 100)):
        place = folder / split / "algebra"
        place.mkdir(parents=True, exist_ok=True)
        for n in range(rows):
            problem = {
                "problem": f"What is half of ${n + shift}$?",
                "level": "Level 1",
                "type": "Algebra",
                "solution": rf"Half of it is $\boxed{{\frac{{{n + shift}}}{{2}}}}$.",
            }
            (place / f"{n}.json").write_text(json.dumps(problem), encoding="utf-8")
    return folder


def write_instructions(folder: Path, name: str = "alpaca-cleaned", *, rows: int = 24) -> Path:
    """Instructions with open answers, one file with the columns of the set that is named; gives the file."""
    about, answer = ("context", "response") if name == "dolly-15k" else ("input", "output")
    path = folder / "train.jsonl"
    _write_lines(
        path,
        [
            {
                "instruction": f"Name a colour {n}.",
                about: "" if n % 2 else "It is warm.",
                answer: "blue" if n % 2 else "red",
            }
            for n in range(rows)
        ],
    )
    return path
