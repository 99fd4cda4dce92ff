"""CoLA: whether a sentence is acceptable English (Warstadt et al. 2019), scored by Matthews correlation."""

from metas_peft.tasks.classification import TextClassification
from metas_peft.tasks.hub import HubSource
from metas_peft.tasks.metrics import matthews_scores

COLA = TextClassification(
    name="cola",
    label_names=("unacceptable", "acceptable"),
    scores=matthews_scores,
    hub=(HubSource("nyu-mll/glue", "cola"),),
    subfolders=("CoLA", "glue_tsv/CoLA"),
)
