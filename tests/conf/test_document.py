"""The reference of run-file keys."""

from pathlib import Path

from metas_peft.conf.document import document
from metas_peft.conf.keys import walk
from metas_peft.conf.methods import METHODS

PAGE = Path(__file__).parent.parent.parent / "docs" / "run-files.md"


def test_page_is_what_make_docs_writes_today():
    assert PAGE.read_text(encoding="utf-8") == document()


def test_page_has_every_key_and_method():
    lines = document().splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    ranges = 6
    assert len(rows) == len([k for k in walk() if not k.is_section]) + ranges + len(METHODS)
    assert len({len(line.split(" | ")) for line in rows}) == 2
