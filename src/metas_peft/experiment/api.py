"""The library's front door: your `transformers` model and your texts in, a measured front out."""

import copy
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metas_peft.backbones import Layout
from metas_peft.backbones.load import LoadedBackbone, with_padding, without_dropout
from metas_peft.backbones.store import load
from metas_peft.conf.compose import load as load_config
from metas_peft.conf.runfile import RunFile
from metas_peft.conf.schema import RunConfig
from metas_peft.core.cost import METRICS, Cost, Origin
from metas_peft.core.errors import (
    CheckpointError,
    DatasetError,
    UnknownNameError,
    UnsupportedBackboneError,
    UsageError,
    nearest,
)
from metas_peft.core.files import read_json
from metas_peft.core.registry import canonical
from metas_peft.experiment.fronts import MODELS
from metas_peft.experiment.pipeline import run
from metas_peft.experiment.workbench import Workbench
from metas_peft.tasks import Task, open_task
from metas_peft.tasks.base import DatasetRequest, Examples, PromptExamples, TextExamples
from metas_peft.tasks.classification import TextClassification
from metas_peft.tasks.metrics import accuracy_scores
from metas_peft.tasks.splits import assemble


@dataclass(frozen=True)
class FrontMember:
    """One member of a finished front.

    Attributes:
        name: Label such as `50 %`.
        quality: Headline metric on the evaluation texts.
        cost: Energy (J), latency (ms), peak power (W) of one pass on the target.
        origin: Where each of the three comes from.
        flops_fraction: FLOPs over those of the dense model.
        folder: Where the compact model is.
    """

    name: str
    quality: float
    cost: Cost[float | None]
    origin: Cost[Origin | None]
    flops_fraction: float
    folder: Path

    def load(self) -> torch.nn.Module:
        """The compact model, a plain module in evaluation mode."""
        return load(self.folder)


class Front:
    """The members of a finished run, largest first.

    Args:
        run_dir: Folder of the run.

    Raises:
        CheckpointError: The folder holds no finished run.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        try:
            self.results: dict[str, Any] = read_json(self.run_dir / "results.json")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.run_dir} holds no finished run ({error}). Tune first.") from error
        self._members = [_member(row, self.run_dir) for row in self.results["front"]]

    def __iter__(self) -> Iterator[FrontMember]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        names = ", ".join(f"{m.name} ({m.quality:.3f})" for m in self)
        return f"<Front {self.run_dir} for {self.results['target_device']}: {names}>"

    def __getitem__(self, name: str) -> FrontMember:
        for member in self._members:
            if name in (member.name, member.folder.name):
                return member
        names = [member.name for member in self._members]
        raise UnknownNameError(f"The front has no member {name!r}: {nearest(name, names)}")


def _member(row: dict[str, Any], run_dir: Path) -> FrontMember:
    origins = [row["origin"][name] for name in ("energy", "latency", "power")]
    return FrontMember(
        row["name"],
        row["quality"],
        Cost.of({m: row[m] for m in METRICS}),
        Cost(*(None if o is None else Origin(o) for o in origins)),
        row["flops_fraction"],
        run_dir / MODELS / row["key"],
    )


def tune(
    model: Any,
    tokenizer: Any,
    train: tuple[Sequence[str], Sequence[Any]],
    validation: tuple[Sequence[str], Sequence[Any]],
    *,
    device: str = "pixel-8",
    out: str | Path = "outputs/tuned",
    settings: Sequence[str] = (),
) -> Front:
    """Fine-tune a `transformers` model for a device and cut the front of smaller models.

    Args:
        model: `AutoModelForSequenceClassification` or `AutoModelForCausalLM` of a known family; a copy is trained.
        tokenizer: Its tokeniser.
        train: Texts and class numbers to train on; for a language model prompts and answers, each answer a text or a
            list of accepted ones.
        validation: The same to evaluate on; it chooses nothing.
        device: Target by name or alias, `local`, or the path of a device file.
        out: Folder of the run; an interrupted call goes on where it stopped, with the same model, texts and settings.
        settings: Keys of a run file, as `key=value`, such as `training.num_epochs=3`.

    Returns:
        The front; `Front(out)` opens it again later.

    Raises:
        MetasPeftError: In one sentence, what went wrong.
    """
    out = Path(out)
    _check_model(model)
    if isinstance(settings, str) or not all(isinstance(s, str) for s in settings) or hasattr(settings, "keys"):
        raise UsageError(
            f"`settings` is {type(settings).__name__}; a list of texts was expected, such as "
            "['training.num_epochs=3', 'model.peft.r=4']."
        )
    name = canonical(model.config.name_or_path or model.config.model_type)
    config = load_config(RunFile(out.name, {}), [f"device={device}", f"run_id={canonical(out.name)}", *settings])
    task, names, read = (_classes if _is_classifier(model) else _answers)(model, config)
    limits = config.dataset
    request = DatasetRequest(
        train_limit=limits.train_limit, evaluation_limit=limits.evaluation_limit, seed=config.training.seed,
        holdout_ratio=limits.holdout_ratio,
    )  # fmt: skip
    data = assemble(
        task, names, read("train", train), read("validation", validation), request, origin="real",
        source="given in memory",
    )  # fmt: skip
    # Checkpoints come in the precision they are stored in; a run trains, cuts and compares in float32.
    own = copy.deepcopy(model)
    own = own if getattr(own, "is_quantized", False) else own.float()
    model, tokenizer = with_padding(without_dropout(own), copy.deepcopy(tokenizer))
    loaded = LoadedBackbone(model, tokenizer, name, "given in memory")
    run(config, out, bench=Workbench.assemble(config, data, task, loaded))
    return Front(out)


Reader = Callable[[str, Any], Examples]


def _is_classifier(model: Any) -> bool:
    return any(base.__name__.endswith("ForSequenceClassification") for base in type(model).__mro__)


def _classes(model: Any, config: RunConfig) -> tuple[Task, tuple[str, ...], Reader]:
    """The task of a classifier, the names of its classes, and what reads its examples."""
    names = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    task = TextClassification(name="your data", label_names=names, scores=accuracy_scores)
    return task, names, lambda name, given: _labelled(name, given, len(names))


def _answers(model: Any, config: RunConfig) -> tuple[Task, tuple[str, ...], Reader]:
    """The same of a language model."""
    wishes = {"max_new_tokens": config.dataset.max_new_tokens, "metric": config.dataset.metric}
    return open_task("your data", source="local", answer_column="answer", **wishes), (), _answered


def _check_model(model: Any) -> None:
    """Refuse what cannot be tuned before anything is read."""
    bases = [base.__name__ for base in type(model).__mro__]
    if "PeftModel" in bases:
        raise UnsupportedBackboneError(
            "The model carries adapters already; give the plain `transformers` model. "
            "`model.merge_and_unload()` makes one of them."
        )
    writes = "PreTrainedModel" in bases and model.can_generate() and Layout(model).family.causal
    if not (_is_classifier(model) or writes):
        raise UnsupportedBackboneError(
            f"A {bases[0]} has no classification head, nor does it write; load the model by "
            "`AutoModelForSequenceClassification.from_pretrained(..., num_labels=...)` or, a decoder, by "
            "`AutoModelForCausalLM.from_pretrained(...)`."
        )
    Layout(model)


def _pair(name: str, given: Any) -> tuple[list[str], list[Any]]:
    """Texts and what is right of each, or what is wrong with them in a sentence."""
    try:
        texts, right = given
        if isinstance(texts, str) or isinstance(right, str):
            raise TypeError
        texts, right = list(texts), list(right)
    except (TypeError, ValueError):
        raise DatasetError(
            f"`{name}` is not a pair (texts, labels) of two sequences; rows of (text, label) become one by "
            "`tuple(zip(*rows))`."
        ) from None
    for text in texts:
        if not isinstance(text, str):
            raise DatasetError(f"`{name}` has {text!r:.60} among its texts, which are strings: give (texts, labels).")
    return texts, right


def _labelled(name: str, given: Any, n_classes: int) -> TextExamples:
    """Texts and labels as the tasks keep them."""
    texts, labels = _pair(name, given)
    classes: list[int] = []
    for label in labels:
        try:
            classes.append(operator.index(label))
        except TypeError:
            raise DatasetError(
                f"`{name}` has the label {label!r:.60}; class numbers 0 to {n_classes - 1} were expected, such as "
                "`names.index(label)`."
            ) from None
        if not 0 <= classes[-1] < n_classes:
            raise DatasetError(f"A label is {label}; the model has {n_classes} classes, 0 to {n_classes - 1}.")
    return TextExamples(tuple(texts), tuple(classes))


def _answered(name: str, given: Any) -> PromptExamples:
    """Prompts and answers as the tasks keep them."""
    prompts, answers = _pair(name, given)
    accepted = [(a,) if isinstance(a, str) else a for a in answers]
    for answer in accepted:
        if not (isinstance(answer, list | tuple) and answer and all(isinstance(a, str) and a.strip() for a in answer)):
            raise DatasetError(
                f"`{name}` has the answer {answer!r:.60}; a language model takes a text that is not empty, or a list "
                "of accepted ones, for each prompt."
            )
    return PromptExamples(
        tuple(prompt.rstrip() for prompt in prompts), tuple(tuple(a.strip() for a in answer) for answer in accepted)
    )
