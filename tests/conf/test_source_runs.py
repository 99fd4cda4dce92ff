"""The source's own run files, unmodified: every key, what it comes to, and what it does."""

from pathlib import Path

import pytest
import yaml

from metas_peft.conf import yaml12
from metas_peft.conf.compose import load
from metas_peft.conf.keys import keys_of, locate, searched
from metas_peft.conf.notices import notices
from metas_peft.conf.runfile import read_run
from metas_peft.conf.schema import SearchRange
from metas_peft.core.errors import UnknownKeyError

RUNS = Path(__file__).parent.parent / "data" / "runs"
PROPOSED = RUNS / "proposed-iter1-Llama-2-7B-SST-2.yaml"
ECHORDA = RUNS / "comparative-1-iter1-Llama-2-7B-SST-2.yaml"
BASELINE = RUNS / "baseline_bert_imdb.yaml"

# Key as the files spell it -> what it does.
EVERY_KEY = {
    "run_id": "names the run and its folder",
    "method": "chooses the method: gates, cost term, target measurements",
    "model.name": "chooses the backbone",
    "model.precision": "arithmetic of training",
    "model.hidden_size": "checked against the backbone",
    "model.num_layers": "checked against the backbone",
    "model.architecture_notes": "copied to the report",
    "model.peft.method": "kind of adapter; only LoRA",
    "model.peft.target_modules": "maps that carry an adapter",
    "model.peft.r": "rank of each adapter",
    "model.peft.alpha": "scale of the adapters",
    "model.peft.dropout": "dropout before an adapter",
    "model.gating.granularity": "what carries a gate; makes front=auto mean gates",
    "model.gating.hard_concrete_temperature": "temperature of the gates; makes front=auto mean gates",
    "model.gating.gate_sparsity_regulariser": "weight of open gates in the loss; makes front=auto mean gates",
    "dataset.name": "chooses the task",
    "dataset.source": "where its data come from",
    "dataset.max_length": "cuts longer sequences",
    "dataset.padding": "pads to the batch's longest sequence or to max_length",
    "dataset.batch_size": "sequences per training step",
    "training.num_epochs": "passes over the training set",
    "training.epochs": "another name of num_epochs",
    "training.learning_rate": "peak learning rate",
    "training.optimizer": "optimiser; only AdamW",
    "training.weight_decay": "decoupled weight decay",
    "training.gradient_accumulation_steps": "batches per optimiser step",
    "training.lr_scheduler": "course of the learning rate",
    "training.warmup_ratio": "part of the steps spent on warm-up",
    "training.warmup_steps": "steps of warm-up; replaces warmup_ratio",
    "training.seed": "seed of every random choice",
    "budgets.energy_j": "limit of a pass on the target",
    "budgets.latency_ms": "limit of a pass on the target",
    "budgets.power_w": "another name of peak_power_w, a limit of a pass on the target",
    "surrogate.checkpoint_path": "where the meta-trained surrogate is kept and found",
    "surrogate.n_hardware_tags": "checked against the pool",
    "surrogate.meta_training_devices": "the pool, less the target",
    "surrogate.calibration_samples": "measurements on the target for calibration",
    "surrogate.calibration_method": "how they are used",
    "hardware_profiling.target_device": "the target, unless device= names another",
    "hardware_profiling.real_measurements_required": "target measurements that EChorda fits its energy model to",
    "hardware_profiling.measurement_cache_dir": "where target measurements are kept and found",
    "objective_weights.lambda_energy": "weight of predicted energy",
    "objective_weights.mu_latency": "weight of predicted latency",
    "objective_weights.nu_power": "weight of predicted peak power",
    "evaluation.primary_metric": "heads the table of results",
    "evaluation.metrics": "columns and lines of the table of results",
    "optuna.n_trials": "trials of a search",
    "optuna.direction": "whether more of the primary metric is better",
    "optuna.search_space": "ranges of a search, by key",
}


def leaves(node, prefix=()):
    for name, value in node.items():
        if isinstance(value, dict) and (*prefix, name) != ("optuna", "search_space"):
            yield from leaves(value, (*prefix, name))
        else:
            yield ".".join((*prefix, name))


def test_every_key_of_the_files_is_listed_with_what_it_does():
    files = sorted(RUNS.glob("*.yaml"))
    assert len(files) == 3
    found = {key for file in files for key in leaves(yaml.safe_load(file.read_text()))}
    assert found == set(EVERY_KEY)
    assert len(found) == 49


@pytest.mark.parametrize("written", sorted(EVERY_KEY))
def test_key_of_the_files_has_a_place(written):
    key = locate(written.split("."))
    assert key.rule.doc


@pytest.mark.parametrize("written", sorted(EVERY_KEY))
def test_typo_in_a_key_is_caught_with_the_right_name(written, tmp_path):
    *above, last = written.split(".")
    typo = last[:2] + last[3:] + "s"
    text = "".join(f"{'  ' * depth}{name}:\n" for depth, name in enumerate(above))
    path = tmp_path / "typo.yaml"
    path.write_text(f"{text}{'  ' * len(above)}{typo}: 1\n")
    right = locate(written.split(".")).path
    with pytest.raises(UnknownKeyError, match=rf"typo.yaml, line {len(above) + 1}: .* did you mean '{right}'\?"):
        read_run(str(path))


def places():
    """Every section, key, searched key and key of a range of the files -> the first file that has it, and its line."""
    found = {}
    for file in sorted(RUNS.glob("*.yaml")):
        for path, line in yaml12.read(file, file.name).lines.items():
            found.setdefault(path, (file, line))
    return found


PLACES = places()


def misspelt(name):
    """A name with usual slips: a letter more, one less, two exchanged, another one, capitals."""
    slips = {name + name[-1], name[1:], name[:-1], name[1:2] + name[:1] + name[2:], name[:2] + name[3:] + "s"}
    return sorted((slips | {name[:1] + name[2:3] + name[1:2] + name[3:], name.upper()}) - {name, ""})


def test_places_are_those_of_all_depths():
    depths = {len(path) for path in PLACES}
    assert depths == {1, 2, 3, 4}
    assert {".".join(path) for path in PLACES} > set(EVERY_KEY)
    assert {p[-1] for p in PLACES if p[:2] == ("optuna", "search_space") and len(p) == 4} == {
        "type", "low", "high", "choices",
    }  # fmt: skip
    assert ("model", "peft") in PLACES
    assert len(PLACES) == 91


@pytest.mark.parametrize("place", sorted(PLACES), ids=".".join)
def test_every_slip_at_every_depth_is_caught_with_the_right_name(place, tmp_path):
    file, line = PLACES[place]
    lines = file.read_text().splitlines(keepends=True)
    path = tmp_path / "typo.yaml"
    is_searched = len(place) == 3 and place[:2] == ("optuna", "search_space")
    # What may be searched is told by the last part of its name, once all keys are together.
    right, read = (searched(place[-1]).leaf, load) if is_searched else (locate(place).path, lambda p: read_run(str(p)))
    for typo in misspelt(place[-1]):
        wrong = lines[line - 1].replace(f"{place[-1]}:", f"{typo}:", 1)
        path.write_text("".join([*lines[: line - 1], wrong, *lines[line:]]))
        with pytest.raises(UnknownKeyError, match=rf"typo.yaml, line {line}: .*did you mean '{right}'\?"):
            read(path)


def test_search_ranges_have_the_keys_of_the_schema():
    spans = [yaml.safe_load(f.read_text())["optuna"]["search_space"] for f in (PROPOSED, ECHORDA, BASELINE)]
    found = {key for span in spans for entry in span.values() for key in entry}
    assert found == {"type", "low", "high", "choices"}
    assert found < set(keys_of(SearchRange))


def test_proposed_file_runs_as_it_is_with_overrides_only():
    config = load(PROPOSED, ["model.name=minilm", "dataset.path=data", "training.num_epochs=1"])
    assert config.run_id == "proposed-iter1-Llama-2-7B-SST-2"
    assert (config.method, config.front, config.target) == ("MetaS-PEFT", "gates", "pixel-8")
    assert (config.model.name, config.dataset.path, config.training.num_epochs) == ("minilm", "data", 1)
    assert (config.model.peft.target_modules, config.model.peft.dropout) == (("q_proj", "v_proj"), 0.1)
    assert (config.model.gating.hard_concrete_temperature, config.training.learning_rate) == (2.0, 2e-5)
    assert (config.budgets.energy_j, config.budgets.latency_ms, config.budgets.peak_power_w) == (6.0, 80.0, 11.0)
    assert (config.training.lr_scheduler, config.training.seed, config.dataset.padding) == ("cosine", 42, "max_length")
    assert config.evaluation.primary_metric == "hypervolume"
    assert len(config.optuna.search_space) == 8
    assert config.optuna.search_space["gate_sparsity_regulariser"].low == 1e-6


def test_comparative_file_runs_as_it_is():
    config = load(ECHORDA)
    assert (config.method, config.front) == ("EChorda", "gates")
    assert (config.target, config.device) == ("Google-Pixel-8-EdgeTPU", None)
    assert config.hardware_profiling.real_measurements_required == 200
    assert config.hardware_profiling.measurement_cache_dir == "/data/echorda_pixel8_profiles"
    assert (config.objective_weights.lambda_energy, config.objective_weights.mu_latency) == (1.0, 0.0)
    assert (config.optuna.direction, config.evaluation.primary_metric) == ("minimize", "energy_j")


def test_baseline_file_means_full_fine_tuning():
    config = load(BASELINE)
    assert (config.method, config.dataset.name) == ("baseline", "imdb")
    assert (config.training.num_epochs, config.training.learning_rate, config.training.warmup_steps) == (3, 2e-5, 500)
    assert (config.model.hidden_size, config.model.num_layers) == (768, 12)
    assert config.optuna.search_space["batch_size"].choices == (16, 32, 64)


def test_target_in_the_pool_is_said_to_be_left_out():
    (dropped,) = [n for n in notices(load(PROPOSED)) if "Pixel-8-TPU" in n]
    assert "left out" in dropped
    assert "5 devices remain" in dropped


@pytest.mark.parametrize("file", [PROPOSED, ECHORDA])
def test_budgets_that_cannot_bind_together_are_reported(file):
    (sentence,) = [n for n in notices(load(file)) if n.startswith("budgets")]
    assert "at most 0.88 J, so energy_j=6 never binds" in sentence


def test_measurements_of_echorda_are_announced():
    assert any("measures the target 200 times" in n for n in notices(load(ECHORDA)))
