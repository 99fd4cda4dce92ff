"""The examples of docs/serving.md run as they stand there, but for the names of folder and members."""

import re
from pathlib import Path

import pytest

from metas_peft.testing.served import save_tiny_run

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def example():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    return blocks[0]


def test_example_has_ten_lines(example):
    assert len([line for line in example.splitlines() if line.strip()]) <= 10


def test_example_runs(example, tmp_path, capsys):
    run = save_tiny_run(tmp_path / "run")
    for shown, there in (("outputs/demo", str(run)), ("50 %", "60 %"), ("26 %", "30 %")):
        assert shown in example
        example = example.replace(shown, there)
    names: dict[str, object] = {"texts": ["a fine film", "dull", "a fine film about nothing is dull , dull"]}
    exec(example, names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 3 + 1
    assert all(line.split()[0] in ("bad", "good") for line in lines)
    assert {" ".join(line.split()[1:3]) for line in lines[1:4]} == {"60 %", "30 %"}
    assert names["small"].num_parameters() < names["model"].front.module("60 %").num_parameters()
