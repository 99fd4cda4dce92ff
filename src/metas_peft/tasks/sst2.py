"""SST-2: sentiment of phrases from film reviews (Socher et al. 2013), with the splits of GLUE."""

from metas_peft.tasks.builtin import BUILTIN
from metas_peft.tasks.classification import TextClassification
from metas_peft.tasks.hub import HubSource
from metas_peft.tasks.metrics import accuracy_scores

SST2 = TextClassification(
    name="sst2",
    label_names=("negative", "positive"),
    scores=accuracy_scores,
    hub=(HubSource("stanfordnlp/sst2"), HubSource("SetFit/sst2")),
    subfolders=("SST-2", "glue_tsv/SST-2"),
    stand_in=BUILTIN,
)
