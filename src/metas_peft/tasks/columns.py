"""From the columns of a table to checked examples: every refusal names the row."""

from collections.abc import Sequence
from typing import Any

from metas_peft.core.errors import DatasetError
from metas_peft.tasks.base import TextExamples
from metas_peft.tasks.tables import Columns


def to_examples(
    columns: Columns, where: str, *, text_columns: Sequence[str], label_column: str, label_names: Sequence[str]
) -> TextExamples:
    """Texts, stripped of white space at both ends, with labels as indices.

    Args:
        columns: Columns by name, of equal length.
        where: File or repository, for messages.
        text_columns: Names the text column may have, best first.
        label_column: Name of the label column; it holds indices or label names.
        label_names: Name of each label index.

    Raises:
        DatasetError: A column is missing, there is no row, a text is empty, or a label is outside the range.
    """
    text_column = next((name for name in text_columns if name in columns), None)
    if text_column is None or label_column not in columns:
        missing = "text" if text_column is None else "label"
        wanted = " or ".join(repr(name) for name in (text_columns if missing == "text" else [label_column]))
        raise DatasetError(
            f"{where} has no {missing} column {wanted}; it has {', '.join(map(repr, columns)) or 'no columns'}. "
            "Rename the column."
        )
    texts, labels = columns[text_column], columns[label_column]
    if not texts:
        raise DatasetError(f"{where} has no rows; at least one example is needed.")
    by_name = {name.lower(): index for index, name in enumerate(label_names)}
    return TextExamples(
        tuple(_text(text, row, where) for row, text in enumerate(texts, start=1)),
        tuple(_label(label, by_name, row, where) for row, label in enumerate(labels, start=1)),
    )


def _text(value: Any, row: int, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        seen = "an empty text" if isinstance(value, str) or value is None else f"a {type(value).__name__}"
        raise DatasetError(f"{where}, row {row}: {seen}, where a text was expected. Fill or remove the row.")
    return value.strip()


def _label(value: Any, by_name: dict[str, int], row: int, where: str) -> int:
    if isinstance(value, str) and value.strip().lower() in by_name:
        return by_name[value.strip().lower()]
    try:
        index = int(value)
        is_exact = not isinstance(value, float) or value == index
    except (TypeError, ValueError, OverflowError):
        index, is_exact = -1, False
    if is_exact and 0 <= index < len(by_name):
        return index
    expected = ", ".join(f"{index} ({name})" for name, index in by_name.items())
    hint = " Labels of -1 mark a hidden test set; use another split." if is_exact and index == -1 else ""
    raise DatasetError(f"{where}, row {row}: label {value!r}, expected one of {expected}.{hint}")
