"""The built-in corpus as a task: generated opinion sentences that a machine without network can be tuned on.

Labels follow from negation, contrast and whose opinion is told, not from which words occur; training and
evaluation sentences share neither templates nor opinion words nor nouns (`metas_peft.tasks.corpus`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from metas_peft.core.errors import DatasetError
from metas_peft.tasks.base import ClassTask, DatasetRequest, TaskData, TextExamples
from metas_peft.tasks.corpus import Sentence, evaluation_sentences, training_sentences
from metas_peft.tasks.metrics import accuracy_scores, confusion
from metas_peft.tasks.splits import assemble

LABEL_NAMES = ("negative", "positive")


@dataclass(frozen=True)
class BuiltinCorpus(ClassTask):
    """The generated corpus; nothing is read, so only the limits and the seed of a request matter."""

    name: str = "builtin"

    def load(self, request: DatasetRequest) -> TaskData:
        """Generate the examples, the same ones everywhere; the seed only draws the held-out slice."""
        if request.path is not None or request.source not in (None, "builtin", "local"):
            raise DatasetError(
                f"The data set {self.name} is generated, but path={request.path}, source={request.source!r} were "
                "given. Leave both out, or name the data set that they hold, such as sst2."
            )
        return assemble(
            self, LABEL_NAMES, _examples(training_sentences), _examples(evaluation_sentences), request,
            origin="synthetic", source="built-in corpus (generated)",
        )  # fmt: skip

    def score(self, predictions: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
        """Accuracy first."""
        return accuracy_scores(confusion(predictions, labels, len(LABEL_NAMES)))


@cache
def _examples(sentences: Callable[[], tuple[Sentence, ...]]) -> TextExamples:
    chosen = sentences()
    return TextExamples(tuple(s.text for s in chosen), tuple(s.label for s in chosen))


BUILTIN = BuiltinCorpus()
