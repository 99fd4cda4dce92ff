"""Tasks: labelled texts, where they come from, and how predictions on them are scored. No torch import.

A new task is one file with a `Task` in it and one line below.
"""

from metas_peft.tasks.base import TASKS, DatasetRequest, Task, TaskData, TextExamples, load_task, register
from metas_peft.tasks.builtin import BUILTIN
from metas_peft.tasks.cola import COLA
from metas_peft.tasks.imdb import IMDB
from metas_peft.tasks.own import OwnTexts, open_task
from metas_peft.tasks.sst2 import SST2
from metas_peft.tasks.unigram import UnigramModel

register(SST2, "sst-2", "stanfordnlp/sst2", "SetFit/sst2", "glue/sst2")
register(COLA, "nyu-mll/cola", "glue/cola")
register(IMDB, "stanfordnlp/imdb")
register(BUILTIN, "built-in", "synthetic")

__all__ = [
    "TASKS", "DatasetRequest", "OwnTexts", "Task", "TaskData", "TextExamples", "UnigramModel", "load_task", "open_task",
    "register",
]  # fmt: skip
