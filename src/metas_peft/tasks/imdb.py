"""IMDB: sentiment of long film reviews (Maas et al. 2011); its labelled test split is what one evaluates on."""

from metas_peft.tasks.classification import TextClassification
from metas_peft.tasks.hub import HubSource
from metas_peft.tasks.metrics import accuracy_scores

IMDB = TextClassification(
    name="imdb",
    label_names=("negative", "positive"),
    scores=accuracy_scores,
    hub=(HubSource("stanfordnlp/imdb", "plain_text"),),
    text_columns=("text", "sentence"),
    evaluation=("test", "validation"),
)
