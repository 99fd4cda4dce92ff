"""GSM8K: word problems of grade-school mathematics (Cobbe et al. 2021); the number after `####` must be right."""

from collections.abc import Sequence

from metas_peft.tasks.hub import HubSource
from metas_peft.tasks.numbers import number_after_hashes, without_calculations
from metas_peft.tasks.prompts import PromptTask, Row


def ask(row: Row) -> tuple[str, list[str]]:
    """The question; the worked answer without its calculator annotations."""
    return f"Question: {row['question'].strip()}\nAnswer:", [without_calculations(row["answer"])]


def is_right(text: str, references: Sequence[str]) -> float:
    """1 if the number after `####` is that of a reference; a text without `####` has not answered."""
    number = number_after_hashes(text)
    return float(bool(number) and any(number == number_after_hashes(reference) for reference in references))


GSM8K = PromptTask(
    name="gsm8k",
    ask=ask,
    columns=("question", "answer"),
    text_metrics={"exact_match": is_right},
    read_off=number_after_hashes,
    max_new_tokens=256,
    hub=(HubSource("openai/gsm8k", "main"),),
    subfolders=("main",),
)
