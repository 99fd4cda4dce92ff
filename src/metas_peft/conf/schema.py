"""Every key of a run file: its type, its default and what it does.

The source's run files are valid as they are. Values are checked in `values.py`; nothing here opens a file or a
device. `docs/run-files.md` is written from this file.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metas_peft.conf.fields import key, section

Granularity = Literal["layer", "attention", "ffn", "head", "ffn_block", "rank"]
Metric = Literal[
    "quality", "accuracy", "energy_j", "latency_ms", "peak_power_w", "flops", "surrogate_error", "hypervolume"
]
METRIC_SPELLINGS = {
    "power_w": "peak_power_w",
    "power": "peak_power_w",
    "energy": "energy_j",
    "latency": "latency_ms",
    "surrogate_mae": "surrogate_error",
    "surrogate_mape": "surrogate_error",
    "hv": "hypervolume",
    "hyper_volume": "hypervolume",
    "4-D_hyper_volume": "hypervolume",
    "4d_hypervolume": "hypervolume",
}
DEFAULT_TARGET = "pixel-8"
# The source's six; the target is taken out of them when a run starts.
SOURCE_POOL = ("RTX-A6000", "Jetson-Orin-NX", "MacBook-M2", "iPhone-15-NPU", "Pixel-8-TPU", "Raspberry-Pi-4")


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """Adapters."""

    method: Literal["LoRA"] = key("LoRA", "Kind of adapter.")
    target_modules: tuple[str, ...] | Literal["all-linear"] = key(
        "all-linear",
        "Linear maps that carry an adapter: names as in the model (`q_proj`) or canonical (`q`, `k`, `v`, `o`, `up`, "
        "`gate`, `down`), or `all-linear`.",
    )
    r: int = key(8, "Rank of each adapter before any rank is removed.", at_least=1, aliases=("rank", "lora_r"))
    alpha: float = key(16.0, "LoRA scale: updates are multiplied by alpha / r.", above=0, aliases=("lora_alpha",))
    dropout: float = key(0.0, "Dropout before an adapter.", at_least=0, below=1, aliases=("lora_dropout",))


@dataclass(frozen=True, kw_only=True)
class GatingConfig:
    """Hard-concrete gates (`front: gates`)."""

    granularity: tuple[Granularity, ...] = key(
        ("layer", "head", "rank"), "What carries a gate; `layer` stands for attention and ffn together."
    )
    hard_concrete_temperature: float = key(2 / 3, "Temperature beta of the gates.", above=0)
    gate_sparsity_regulariser: float = key(
        1e-5,
        "Weight of the sum of opening probabilities in the loss.",
        at_least=0,
        aliases=("gate_sparsity_regularizer",),
    )
    gate_learning_rate: float = key(0.05, "Learning rate of the gates' log-odds.", above=0)
    gate_warmup: float = key(0.1, "Part of `training.gate_steps` in which all gates stay open.", at_least=0, below=1)
    gate_ramp: float = key(
        0.3,
        "Part of `training.gate_steps` after which the price has its full weight; it rises from the end of "
        "`gate_warmup`.",
        at_least=0,
        at_most=1,
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone, its adapters and its gates."""

    name: str = key("minilm", "Backbone: a short name, a hub id, or a local folder.")
    weights: Literal["pretrained", "random"] = key(
        "pretrained",
        "`random` builds the real architecture with random weights, for speed and memory work; quality means nothing.",
    )
    precision: Literal["bfloat16", "float32"] = key(
        "bfloat16",
        "Arithmetic of training: bfloat16 autocast, or float32. Models are evaluated and measured in float32.",
        spellings={"bf16": "bfloat16", "fp32": "float32"},
    )
    hidden_size: int | None = key(None, "Checked against the backbone; chooses nothing.", at_least=1)
    num_layers: int | None = key(None, "Checked against the backbone; chooses nothing.", at_least=1)
    architecture_notes: str = key("", "Free text, copied to the report.")
    peft: PeftConfig = section(PeftConfig, "Adapters.")
    gating: GatingConfig = section(GatingConfig, "Hard-concrete gates.")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """The task and its data."""

    name: str = key(
        "sst2",
        "Task: `sst2`, `cola`, `imdb`, or `builtin` for the generated corpus; for decoders `natural_instructions`, "
        "`gsm8k`, `math`, `alpaca-cleaned`, `dolly-15k`; for a set of your own any name with `path` or `source`, or "
        "`OWNER/NAME` on the hub.",
    )
    source: str | None = key(
        None,
        "Where to look: `huggingface:OWNER/NAME` (a copy under METAS_DATA stands in for a task's official repository, "
        "for no other), `local` (`path` or a folder under METAS_DATA, and nowhere else), `builtin`, or nothing for "
        "path, METAS_DATA, hub and built-in in this order.",
    )
    config: str | None = key(
        None,
        "Configuration of the repository of the hub, as its card lists them (`sst2` of `nyu-mll/glue`); "
        "`datasets.load_dataset` calls it `name`. Default: the usual one of a task that we know, else the only one.",
        aliases=("subset", "config_name"),
    )
    path: str | None = key(None, "Local folder or file that holds the data.")
    text_column: str | None = key(None, "Column of the texts; default: `text` or `sentence`.")
    label_column: str | None = key(None, "Column of the labels, numbers or names; default: `label`.")
    prompt_column: str | None = key(
        None, "Column of the prompts of a set of your own; default, where `answer_column` is named: `prompt`."
    )
    answer_column: str | None = key(
        None,
        "Column of the answers, a text or a list of accepted ones; naming it or `prompt_column` makes a set of your "
        "own one of prompts and answers, for decoders. Default: `answer`.",
    )
    max_new_tokens: int | None = key(
        None,
        "Tokens of a written reply at most, beyond `max_length`; default: the task's own. 0: nothing is written, and "
        "the likelihood of the reference judges.",
        at_least=0,
    )
    metric: Literal["exact_match", "rouge_l", "inverse_perplexity"] | None = key(
        None, "Headline metric of a task of prompts and answers, one of those that it has; default: its first."
    )
    max_length: int = key(
        128,
        "Longest sequence in tokens; longer ones are cut. Of a prompt with its answer both count, and a prompt that is "
        "too long loses its middle.",
        at_least=2,
    )
    padding: Literal["longest", "max_length"] = key(
        "longest", "Pad to the longest sequence of a batch, rounded up to a multiple of 8, or always to `max_length`."
    )
    batch_size: int = key(32, "Sequences per training step.", at_least=1)
    train_limit: int | None = key(None, "Use at most so many training examples (a seeded choice).", at_least=1)
    evaluation_limit: int | None = key(None, "Use at most so many evaluation examples (a seeded choice).", at_least=1)
    holdout_ratio: float = key(
        0.1, "Part of the training set that choices are made on, at most 1000 examples.", above=0, below=1
    )
    evaluation_ratio: float = key(
        0.1,
        "Part of a set with training rows alone (a file, a repository) that is evaluated on, at most 1000 examples.",
        above=0,
        below=1,
    )


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Weights of the loss of self-distillation from the ungated model."""

    temperature: float = key(2.0, "Temperature of the softened predictions.", above=0)
    cross_entropy: float = key(0.5, "Weight of the task's own loss.", at_least=0)
    kl: float = key(0.5, "Weight of the divergence from the ungated model's predictions.", at_least=0)
    hidden: float = key(1.0, "Weight of the distance between last hidden states.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Fine-tuning of the dense model, then of the gated one."""

    num_epochs: int = key(2, "Passes over the training set for the dense model.", at_least=1, aliases=("epochs",))
    learning_rate: float = key(1e-3, "Peak learning rate of adapters and head.", above=0, aliases=("lr",))
    optimizer: Literal["adamw"] = key("adamw", "Optimiser.", aliases=("optimiser",))
    weight_decay: float = key(0.01, "Decoupled weight decay.", at_least=0)
    gradient_accumulation_steps: int = key(1, "Batches per optimiser step.", at_least=1)
    lr_scheduler: Literal["linear", "cosine", "constant"] = key(
        "linear", "Course of the learning rate after warm-up.", aliases=("lr_scheduler_type", "scheduler")
    )
    warmup_ratio: float = key(0.05, "Part of the optimiser steps spent on warm-up.", at_least=0, at_most=1)
    warmup_steps: int | None = key(None, "Optimiser steps of warm-up; replaces `warmup_ratio`.", at_least=0)
    seed: int = key(0, "Seed of every random choice.", at_least=0, at_most=2**32 - 1)
    path_steps: int = key(
        240,
        "Small batches over which the nested path is found, unit by unit; nothing is trained meanwhile.",
        at_least=1,
    )
    gate_steps: int = key(200, "Steps in which hard-concrete gates are trained.", at_least=1)
    joint_steps: int = key(
        300,
        "Steps that then train all members of the front together; without any they are cut from the dense model.",
        at_least=0,
    )
    distillation: DistillationConfig = section(DistillationConfig, "Self-distillation.")


@dataclass(frozen=True, kw_only=True)
class BudgetsConfig:
    """Limits of one pass of one batch on the target."""

    energy_j: float | None = key(None, "Energy in J.", above=0)
    latency_ms: float | None = key(None, "Latency in ms.", above=0)
    peak_power_w: float | None = key(None, "Peak power in W.", above=0, aliases=("power_w",))
    relative: float | None = key(
        None,
        "All three as a fraction of the ungated model's cost on the target: of the measured one where a report says "
        "which members hold them, of the predicted one where `mode` is `meet`.",
        above=0,
        at_most=1,
    )
    relative_energy: float | None = key(
        None, "The same for energy alone; it goes before `relative`.", above=0, at_most=1
    )
    relative_latency: float | None = key(None, "For latency alone.", above=0, at_most=1)
    relative_power: float | None = key(
        None,
        "For peak power alone, which on many devices falls little or not at all with the model.",
        above=0,
        at_most=1,
    )
    mode: Literal["report", "meet"] = key(
        "report",
        "`report`: which members hold the budgets. `meet`: the front also has the largest member that is predicted to "
        "hold them all, and budgets that no model can hold end the run before it trains.",
    )

    def fractions(self) -> dict[str, float]:
        """Metric -> fraction of the ungated model's cost, where there is one."""
        own = {
            "energy_j": self.relative_energy,
            "latency_ms": self.relative_latency,
            "peak_power_w": self.relative_power,
        }
        return {m: f for m, v in own.items() if (f := self.relative if v is None else v) is not None}


@dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """The predictor of energy, latency and peak power, and its calibration to the target."""

    checkpoint_path: str | None = key(
        None, "Read the meta-trained surrogate from here if it is there and fits the pool, else write it here."
    )
    n_hardware_tags: int | None = key(
        None, "Size of the pool, checked against `meta_training_devices`; the target's place is the unseen slot."
    )
    meta_training_devices: tuple[str, ...] = key(
        SOURCE_POOL, "Pool to learn from: device names, or one named pool (`six`, `four`). The target is taken out."
    )
    calibration_samples: int = key(5, "Measurements on the target for calibration.", at_least=0)
    calibration_method: Literal["auto", "linear_scale_shift", "roofline"] = key(
        "auto",
        "`linear_scale_shift`: a scale and a shift per metric; `roofline`: coefficients fitted anew; `auto`: the "
        "method that goes with the predictor chosen.",
    )
    calibration_design: Literal["random", "quantiles"] = key(
        "quantiles",
        "Which configurations calibrate: ones spread evenly over FLOPs, or `random` ones as in the source.",
    )
    records: int = key(2400, "Simulated measurements of the pool to learn from.", at_least=50, below=3000)
    kind: Literal["auto", "metas", "reference", "roofline"] = key(
        "auto",
        "Predictor: `metas`, which ships trained; the source's network or the five-point roofline, which learn from "
        "the pool; `auto`: the best kind of the surrogate at hand, the shipped one unless `checkpoint_path` holds one.",
    )
    mixup: bool = key(True, "Blend pairs of pool devices while the source's network learns.")
    meta_learning: bool = key(True, "Train the source's network on episodes that each hide one pool device.")


@dataclass(frozen=True, kw_only=True)
class ProfilingConfig:
    """Measuring on the target."""

    target_device: str | None = key(None, f"Target; `device` overrides it. Without either: `{DEFAULT_TARGET}`.")
    real_measurements_required: int = key(200, "Target measurements that EChorda fits its energy model to.", at_least=5)
    measurement_cache_dir: str | None = key(
        None, "Folder where target measurements are kept and found again; the run's own folder if it is not writable."
    )
    power: str = key(
        "meter",
        "Where energy and power on `local` come from: `meter`, the name of one (`metas devices check`), `modelled` "
        "(from processor time), or `meter-or-modelled`. Without a meter, `meter` stops the run before it trains.",
    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights of the three predicted costs, each relative to the ungated model's."""

    lambda_energy: float = key(1.0, "Weight of energy.", at_least=0)
    mu_latency: float = key(1.0, "Weight of latency.", at_least=0)
    nu_power: float = key(1.0, "Weight of peak power.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Operating points, workload, rivals, and what the table shows."""

    primary_metric: Metric = key("hypervolume", "Figure that heads the table of results.", spellings=METRIC_SPELLINGS)
    metrics: tuple[Metric, ...] = key(
        ("quality", "energy_j", "latency_ms", "peak_power_w", "flops", "surrogate_error", "hypervolume"),
        "Columns and lines of the table that ends a run; `results.json` and the report hold everything.",
        spellings=METRIC_SPELLINGS,
    )
    operating_points: tuple[float, ...] = key(
        (0.8, 0.67, 0.5, 0.42, 0.34, 0.26),
        "Members of the front, as fractions of the ungated model's FLOPs; at most twenty.",
        above=0,
        at_most=1,
    )
    split: Literal["validation", "holdout"] = key(
        "validation",
        "Examples that quality is reported on. `holdout` is the part of the training set that choices are made on; a "
        "search uses it, so that the evaluation examples choose nothing.",
    )
    seq_len: int | None = key(
        None, "Tokens per sequence of the measured pass; default: `dataset.max_length`.", at_least=1
    )
    batch_size: int = key(1, "Sequences in the measured pass.", at_least=1)
    baselines: tuple[str, ...] = key(
        ("EChorda", "static-lora", "drop-top"), "Methods to run beside the main one, on the same target."
    )


# Optuna's own names of ranges, those of its older versions included.
RANGE_SPELLINGS = {
    "suggest_float": "float",
    "FloatDistribution": "float",
    "suggest_uniform": "uniform",
    "UniformDistribution": "uniform",
    "log_uniform": "loguniform",
    "suggest_loguniform": "loguniform",
    "LogUniformDistribution": "loguniform",
    "integer": "int",
    "suggest_int": "int",
    "IntDistribution": "int",
    "IntUniformDistribution": "int",
    "suggest_categorical": "categorical",
    "CategoricalDistribution": "categorical",
}


@dataclass(frozen=True, kw_only=True)
class SearchRange:
    """Values that a search may give to one key."""

    type: Literal["loguniform", "uniform", "float", "int", "categorical"] = key(
        "uniform",
        "Kind of range; Optuna's names (`suggest_float`, `IntDistribution`, ...) are understood too.",
        spellings=RANGE_SPELLINGS,
        aliases=("distribution",),
    )
    low: int | float | None = key(None, "Least value.")
    high: int | float | None = key(None, "Greatest value; it is within the range.")
    log: bool = key(False, "Whether a `float` or `int` range is even in the logarithm; `uniform` is not.")
    step: int | float | None = key(None, "Distance between the values of a `float` or `int` range.", above=0)
    choices: tuple[bool | int | float | str, ...] = key((), "Values of a categorical.")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search over keys (`metas sweep`); a single run does not use it."""

    n_trials: int = key(20, "Number of trials of the whole study, all workers and resumptions together.", at_least=1)
    direction: Literal["maximize", "minimize"] | None = key(
        None,
        "Whether more of the figure that is searched for is better. The figure itself says so; a direction that "
        "contradicts it, or that is given for several `objectives`, is refused.",
    )
    objectives: tuple[Metric, ...] = key(
        (),
        "Figures to search for in place of `evaluation.primary_metric`; several make the search multi-objective. "
        "Quality and hyper-volume are maximised, everything else is minimised.",
        spellings=METRIC_SPELLINGS,
    )
    reference_quality: float | None = key(
        None,
        "Quality of a dense model that the hyper-volumes of all trials are measured from, such as a plain run's. By "
        "default each trial's own: then a trial that trains its dense model badly can look good.",
        at_most=1,
    )
    sampler: Literal["tpe", "random", "gp", "nsga-ii"] = key(
        "tpe", "Optuna's sampler.", spellings={"nsgaii": "nsga-ii"}
    )
    repeats: int = key(
        1, "Runs of each trial with seeds `training.seed`, + 1, ...; a trial's value is their mean.", at_least=1
    )
    pruner: Literal["none", "median", "successive-halving", "hyperband"] = key(
        "none", "Optuna's pruner, which may end a trial between its repeats."
    )
    storage: str | None = key(
        None,
        "URL of a PostgreSQL or MySQL database that workers share; default: a journal file in the search's folder.",
    )
    keep: Literal["all", "best", "results"] = key(
        "best",
        "What stays of finished trials: everything, everything of the best and the results of the others, or results "
        "alone.",
    )
    heartbeat_s: float = key(
        60.0,
        "Seconds between a worker's signs of life; a trial without one for three of these is run again.",
        above=0,
    )
    search_space: Mapping[str, SearchRange] = section(dict, "Key (its last part is enough where unique) -> range.")


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """The decision tree that picks a member at run time."""

    inputs: int = key(2000, "Held-out inputs to learn from, at most.", at_least=1)
    depth: int = key(3, "Depth of the tree.", at_least=1, at_most=6)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One experiment."""

    run_id: str = key("", "Name of the run and of its folder; default: the run file's name.")
    method: str = key("MetaS-PEFT", "Method or baseline, by name or alias.")
    front: Literal["auto", "nested", "gates"] = key(
        "auto",
        "How the front is made: `nested` orders units by importance and cuts a path; `gates` trains hard-concrete "
        "gates; `auto` is `gates` where the run file sets one of their keys, else `nested`.",
    )
    device: str | None = key(None, "Target device, by name or alias; overrides `hardware_profiling.target_device`.")
    retarget: tuple[str, ...] = key((), "Further devices to calibrate and measure the finished front on; no training.")
    threads: int | None = key(None, "Processor threads of torch; default: 1 on machines with few cores.", at_least=1)
    output_dir: str = key("outputs", "Folder of run folders.")
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = key(
        (),
        "Trackers that follow the training, through the Trainer's integrations; their packages must be installed. "
        "TensorBoard's events go into the run's folder, the others are configured by their own variables.",
    )
    model: ModelConfig = section(ModelConfig, "Backbone, adapters, gates.")
    dataset: DatasetConfig = section(DatasetConfig, "Task and data.")
    training: TrainingConfig = section(TrainingConfig, "Fine-tuning.")
    budgets: BudgetsConfig = section(BudgetsConfig, "Limits on the target.")
    surrogate: SurrogateConfig = section(SurrogateConfig, "Predictor of costs.")
    hardware_profiling: ProfilingConfig = section(ProfilingConfig, "Measuring on the target.")
    objective_weights: ObjectiveConfig = section(ObjectiveConfig, "Weights of the three costs.")
    evaluation: EvaluationConfig = section(EvaluationConfig, "Operating points, workload, rivals, table.")
    optuna: SearchConfig = section(SearchConfig, "Search over keys.")
    controller: ControllerConfig = section(ControllerConfig, "Run-time choice of a member.")
    # Bookkeeping, not a key: dotted paths that the run file and the overrides set.
    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)

    @property
    def run_folder(self) -> Path:
        """The run's folder."""
        return Path(self.output_dir) / self.run_id

    @property
    def target(self) -> str:
        """Name of the target device, as the user spelled it."""
        return self.device or self.hardware_profiling.target_device or DEFAULT_TARGET
