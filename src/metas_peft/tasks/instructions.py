"""Instruction sets, alpaca-cleaned and dolly-15k: open answers, judged by the likelihood of the reference.

An open answer is not right or wrong by its wording, so the headline is how likely the model finds the reference:
exp(-loss), the inverse perplexity per token. Where replies are asked for (`max_new_tokens`), ROUGE-L stands beside it.
"""

from metas_peft.tasks.hub import HubSource
from metas_peft.tasks.prompts import PromptTask, Row
from metas_peft.tasks.wording import rouge_l


def instruction(text: str, context: str) -> str:
    """A prompt of an instruction and what it is about, if anything."""
    about = f"\nInput: {context.strip()}" if context.strip() else ""
    return f"Instruction: {text.strip()}{about}\nResponse:"


def ask_alpaca(row: Row) -> tuple[str, list[str]]:
    """Columns `instruction`, `input`, `output`."""
    return instruction(row["instruction"], row["input"] or ""), [row["output"]]


def ask_dolly(row: Row) -> tuple[str, list[str]]:
    """Columns `instruction`, `context`, `response`."""
    return instruction(row["instruction"], row["context"] or ""), [row["response"]]


ALPACA = PromptTask(
    name="alpaca-cleaned",
    ask=ask_alpaca,
    columns=("instruction", "input", "output"),
    text_metrics={"rouge_l": rouge_l},
    max_new_tokens=0,
    weighs=True,
    hub=(HubSource("yahma/alpaca-cleaned", file="alpaca_data_cleaned.json"),),
)
DOLLY = PromptTask(
    name="dolly-15k",
    ask=ask_dolly,
    columns=("instruction", "context", "response"),
    text_metrics={"rouge_l": rouge_l},
    max_new_tokens=0,
    weighs=True,
    hub=(HubSource("databricks/databricks-dolly-15k", file="databricks-dolly-15k.jsonl"),),
)
