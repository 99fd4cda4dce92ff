"""Backbone, data and settings of a run put together: what tuning and measuring both need."""

import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from metas_peft.backbones import add_lora, compact, shape_of
from metas_peft.backbones.load import LoadedBackbone, load_backbone, locate_backbone
from metas_peft.backbones.shape import longest_sequence
from metas_peft.backbones.skeleton import prefer_sdpa
from metas_peft.backbones.store import fingerprint
from metas_peft.backbones.store import load as load_compact
from metas_peft.conf import METHODS, RunConfig
from metas_peft.core.cost import Cost
from metas_peft.core.errors import CheckpointError, RunFileError, UsageError
from metas_peft.core.files import replacing
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.experiment.stages import digest
from metas_peft.tasks import DatasetRequest, Task, TaskData, open_task
from metas_peft.tasks.base import Examples
from metas_peft.tasks.splits import for_choosing
from metas_peft.tuning.context import GateSettings, Schedule
from metas_peft.tuning.data import Batches, EncodedTexts
from metas_peft.tuning.forms import CLASSES, Form
from metas_peft.tuning.loop import LoopSettings, Reports
from metas_peft.tuning.objectives import Distillation
from metas_peft.tuning.writing import WritingForm

logger = logging.getLogger(__name__)

SMALL_MACHINE_CORES = 4
# What a kind of task asks of a model, given the task and the tokeniser.
FORMS: Mapping[str, Callable[[Any, Any], Form]] = {
    "classification": lambda task, tokenizer: CLASSES,
    "generation": lambda task, tokenizer: WritingForm(tokenizer, task.max_new_tokens, task.weighs),
}


def set_threads(wanted: int | None) -> int:
    """Set torch's threads; one on small machines, where two contended threads are slower than one.

    Returns:
        The number in force.
    """
    if wanted is not None:
        torch.set_num_threads(wanted)
    elif (os.cpu_count() or 1) <= SMALL_MACHINE_CORES:
        torch.set_num_threads(1)
    return torch.get_num_threads()


def _check_trackers(names: Sequence[str]) -> None:
    """Miss a tracker's package before hours of training, not after."""
    for name in names:
        if find_spec(name) is None:
            raise UsageError(
                f"report_to names {name}, but the package {name} is not installed. `pip install {name}`, or leave "
                "it out."
            )


def _end_where_taught(model: Any, end: int) -> None:
    """Let generation end at the token that closes answers in training, beside those that the model knows of itself."""
    own = model.generation_config.eos_token_id
    ends = list(own) if isinstance(own, (list, tuple)) else [] if own is None else [own]
    if end not in ends:
        model.generation_config.eos_token_id = [*ends, end]


@dataclass
class Workbench:
    """A run's model and data.

    Attributes:
        config: The run.
        task: Texts and what is right.
        judge: The task itself, which judges predictions.
        form: What the task asks of the model.
        backbone: Name of the backbone.
        backbone_source: Where its weights came from.
        adapted: PEFT model, or the plain model for full fine-tuning.
        network: The `transformers` model inside.
        dense_config: Its config before anything is cut.
        shape: Its shape.
        tokenizer: Its tokeniser.
        train: Training texts.
        validation: Evaluation texts.
        collator: Pads batches.
        workload: What is priced and measured.
    """

    config: RunConfig
    task: TaskData
    judge: Task
    form: Form
    backbone: str
    backbone_source: str
    adapted: Any
    network: Any
    dense_config: Any
    shape: BackboneShape
    tokenizer: Any
    train: EncodedTexts
    validation: EncodedTexts
    collator: Batches
    workload: Workload

    @classmethod
    def load(cls, config: RunConfig) -> "Workbench":
        """Load the data and the backbone that a run file names.

        Raises:
            MetasPeftError: Data or weights are missing, or the run file contradicts the backbone.
        """
        data, model = config.dataset, config.model
        locate_backbone(model.name, model.weights)  # before a data set is read in vain
        opened = open_task(
            data.name, path=data.path, source=data.source, config=data.config, text_column=data.text_column,
            label_column=data.label_column, prompt_column=data.prompt_column, answer_column=data.answer_column,
            max_new_tokens=data.max_new_tokens, metric=data.metric,
        )  # fmt: skip
        task = opened.load(
            DatasetRequest(
                None if data.path is None else Path(data.path), data.source, data.train_limit, data.evaluation_limit,
                config.training.seed, data.holdout_ratio, data.evaluation_ratio, data.config,
            )
        )  # fmt: skip
        loaded = load_backbone(
            model.name, n_labels=len(task.label_names) or None, weights=model.weights, seed=config.training.seed,
            texts=task.train.texts,
        )  # fmt: skip
        return cls.assemble(config, task, opened, loaded)

    @classmethod
    def assemble(cls, config: RunConfig, task: TaskData, judge: Task, loaded: LoadedBackbone) -> "Workbench":
        """Put adapters on a backbone and the data through its tokeniser.

        Raises:
            RunFileError: The run file contradicts the backbone.
        """
        data, model = config.dataset, config.model
        _check_trackers(config.report_to)
        if config.evaluation.split == "holdout":
            task = for_choosing(task, judge)
        shape = shape_of(loaded.model, (), loaded.name)
        for key, wanted, found in (
            ("model.hidden_size", model.hidden_size, shape.hidden),
            ("model.num_layers", model.num_layers, shape.n_layers),
        ):
            if wanted is not None and wanted != found:
                raise RunFileError(f"{key} is {wanted}, but {model.name} has {found}. Correct it or leave it out.")
        if task.label_names:  # members carry them, so that an answer can be read without the data set
            loaded.model.config.id2label = dict(enumerate(task.label_names))
            loaded.model.config.label2id = {name: i for i, name in enumerate(task.label_names)}
        longest = longest_sequence(loaded.model)
        form = FORMS[judge.kind](judge, loaded.tokenizer)
        if loaded.model.can_generate():
            _end_where_taught(loaded.model, loaded.tokenizer.eos_token_id)
        for key, tokens in (
            ("dataset.max_length", data.max_length),
            ("evaluation.seq_len", config.evaluation.seq_len),
            ("dataset.max_length with the tokens of a reply", data.max_length + form.reply_tokens),
        ):
            if tokens is not None and longest is not None and tokens > longest:
                raise RunFileError(f"{key} is {tokens}, but {model.name} reads at most {longest} tokens. Lower it.")
        if METHODS[config.method].trains_all:
            adapted, network = loaded.model, loaded.model
            adapted.requires_grad_(True)
        else:
            peft = model.peft
            targets = peft.target_modules if isinstance(peft.target_modules, str) else list(peft.target_modules)
            adapted, sites = add_lora(
                loaded.model, targets, rank=peft.r, alpha=peft.alpha, dropout=peft.dropout, seed=config.training.seed
            )
            network = adapted.get_base_model()
            shape = shape_of(network, sites, loaded.name)

        return cls(
            config=config,
            task=task,
            judge=judge,
            form=form,
            backbone=loaded.name,
            backbone_source=loaded.source,
            adapted=adapted,
            network=network,
            dense_config=copy.deepcopy(network.config),
            shape=shape,
            tokenizer=loaded.tokenizer,
            train=form.encode(loaded.tokenizer, task.train, data.max_length),
            validation=form.encode(loaded.tokenizer, task.validation, data.max_length),
            collator=form.collator(
                loaded.tokenizer.pad_token_id,
                data.max_length if data.padding == "max_length" else None,
                limit=data.max_length,
            ),
            workload=Workload(
                batch_size=config.evaluation.batch_size, seq_len=config.evaluation.seq_len or data.max_length
            ),
        )

    def encode(self, examples: Examples) -> EncodedTexts:
        """Other examples of the task as the run's texts are."""
        return self.form.encode(self.tokenizer, examples, self.config.dataset.max_length)

    # ---- settings of the stages

    def loop_settings(self) -> LoopSettings:
        """Loop settings of the dense stage."""
        t = self.config.training
        return LoopSettings(
            steps=None,
            epochs=t.num_epochs,
            batch_size=self.config.dataset.batch_size,
            accumulation=t.gradient_accumulation_steps,
            learning_rate=t.learning_rate,
            weight_decay=t.weight_decay,
            scheduler=t.lr_scheduler,
            warmup=t.warmup_steps if t.warmup_steps is not None else min(t.warmup_ratio, 0.999),
            bf16=self.config.model.precision == "bfloat16",
            seed=t.seed,
            reports=Reports(self.config.report_to, self.config.run_id, str(self.config.run_folder / "tensorboard")),
        )

    def distillation(self) -> Distillation:
        """Weights of the distillation, an ablation's changes included."""
        d = self.config.training.distillation
        return Distillation(d.temperature, d.cross_entropy, d.kl, d.hidden)

    def gate_settings(self) -> GateSettings:
        """Gate settings of `front=gates`."""
        g = self.config.model.gating
        return GateSettings(
            tuple(g.granularity), g.hard_concrete_temperature, g.gate_sparsity_regulariser, g.gate_learning_rate,
            self.config.training.gate_steps, g.gate_warmup, g.gate_ramp,
        )  # fmt: skip

    def schedule(self) -> Schedule:
        """Length of the stages after the dense one."""
        return Schedule(self.config.training.path_steps, self.config.training.joint_steps)

    def weights(self) -> Cost[float]:
        """lambda, mu, nu."""
        w = self.config.objective_weights
        return Cost(w.lambda_energy, w.mu_latency, w.nu_power)

    def digests(self) -> dict[str, str]:
        """Short digests of the untrained model and of the texts and what is right, which tell them from others."""
        parts = (self.task.train, self.task.holdout, self.task.validation)
        return {
            "model": fingerprint(dict(self.network.named_parameters()))[:10],
            "data": digest([[part.texts, part.references] for part in parts]),
        }

    # ---- weights on disk

    def save_trained(self, path: Path) -> None:
        """Write everything that is trained."""
        state = {n: p.detach().contiguous() for n, p in self.adapted.named_parameters() if p.requires_grad}
        with replacing(path) as temporary:
            save_file(state, temporary)

    @torch.no_grad()
    def load_trained(self, path: Path) -> None:
        """Inverse of `save_trained`.

        Raises:
            CheckpointError: Absent, damaged, or of another model.
        """
        try:
            state = load_file(path)
            for name, parameter in self.adapted.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state[name])
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is absent or damaged ({error}). Delete the run's folder and start over."
            ) from error

    # ---- passes to be measured

    def open_subnet(self, subnet: Subnet) -> Any:
        """Opener of a subnet cut from the network as it is; its cost does not depend on the weights' values."""
        return lambda workload: self._runner(compact(self.network, self.shape, subnet), workload)

    def open_stored(self, folder: Path) -> Any:
        """Opener of a stored member: what is measured is what ships."""
        return lambda workload: self._runner(load_compact(folder), workload)

    def _runner(self, model: Any, workload: Workload) -> Any:
        model = model.to("cpu")  # what is measured runs on this computer's processor, wherever it was trained
        prefer_sdpa(model)
        generator = torch.Generator().manual_seed(0)
        vocabulary = model.config.get_text_config().vocab_size
        ids = torch.randint(1, vocabulary, (workload.batch_size, workload.seq_len), generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        def one_pass() -> None:
            with torch.inference_mode():
                model(**inputs)

        return one_pass
