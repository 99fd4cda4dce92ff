"""Tasks: texts with classes or prompts with answers, where they come from, how predictions are scored. No torch import.

A new task is one file with a `Task` in it and one line below.
"""

from metas_peft.tasks.base import (
    TASKS,
    DatasetRequest,
    PromptExamples,
    Task,
    TaskData,
    TextExamples,
    load_task,
    register,
)
from metas_peft.tasks.builtin import BUILTIN
from metas_peft.tasks.cola import COLA
from metas_peft.tasks.gsm8k import GSM8K
from metas_peft.tasks.imdb import IMDB
from metas_peft.tasks.instructions import ALPACA, DOLLY
from metas_peft.tasks.mathematics import MATH
from metas_peft.tasks.natural_instructions import NATURAL_INSTRUCTIONS
from metas_peft.tasks.own import OwnTexts, open_task
from metas_peft.tasks.prompts import PromptTask
from metas_peft.tasks.sst2 import SST2
from metas_peft.tasks.unigram import UnigramModel

register(SST2, "sst-2", "stanfordnlp/sst2", "SetFit/sst2", "glue/sst2")
register(COLA, "nyu-mll/cola", "glue/cola")
register(IMDB, "stanfordnlp/imdb")
register(NATURAL_INSTRUCTIONS, "super-natural-instructions", "allenai/natural-instructions")
register(GSM8K, "openai/gsm8k")
register(MATH, "hendrycks/math", "competition_math", "nlile/hendrycks-MATH-benchmark")
register(ALPACA, "alpaca", "yahma/alpaca-cleaned")
register(DOLLY, "dolly", "databricks-dolly-15k", "databricks/databricks-dolly-15k")
register(BUILTIN, "built-in", "synthetic")

__all__ = [
    "TASKS", "DatasetRequest", "OwnTexts", "PromptExamples", "PromptTask", "Task", "TaskData", "TextExamples",
    "UnigramModel", "load_task", "open_task", "register",
]  # fmt: skip
