"""The built-in corpus: lexicon, templates and the generator."""

from metas_peft.tasks.corpus import lexicon, templates
from metas_peft.tasks.corpus.generate import Sentence, generate

TRAINING_SIZE, TRAINING_SEED = 6000, 1
EVALUATION_SIZE, EVALUATION_SEED = 1000, 2


def training_sentences() -> tuple[Sentence, ...]:
    """The training part: its own templates and lexicon."""
    return generate(templates.TRAIN, lexicon.TRAIN, TRAINING_SIZE, TRAINING_SEED)


def evaluation_sentences() -> tuple[Sentence, ...]:
    """The evaluation part: templates and lexicon that the training part does not have."""
    return generate(templates.TEST, lexicon.TEST, EVALUATION_SIZE, EVALUATION_SEED)


__all__ = ["Sentence", "evaluation_sentences", "generate", "training_sentences"]
