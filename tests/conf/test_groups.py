"""Named sets of values for a section: what there is, what they replace, and sweeps over them."""

from importlib import resources
from operator import attrgetter
from pathlib import Path

import pytest

from metas_peft.backbones.catalogue import BACKBONES
from metas_peft.conf import groups
from metas_peft.conf.compose import Flags, jobs, launch, load
from metas_peft.conf.keys import locate, walk
from metas_peft.conf.methods import AS_DESCRIBED, METHODS, obstacle
from metas_peft.core.errors import RunFileError, UnknownNameError, UsageError
from metas_peft.tasks import TASKS

EVERY = [(section, name) for section, names in groups.choices().items() for name in names.values()]


def test_groups_are_these_and_know_the_names_of_the_registries():
    names = {section: sorted(known.values()) for section, known in groups.choices().items()}
    assert names == {
        "budgets": ["relative-40", "relative-60", "relative-80", "source"],
        "controller": ["one-threshold", "quick"],
        "dataset": sorted(TASKS),
        "evaluation": ["all-rivals", "dense-points", "holdout", "quick", "source"],
        "hardware_profiling": ["few-measurements", "metered", "source", "this-machine"],
        "model": sorted(BACKBONES),
        "model.gating": ["fine", "heads-ranks", "layers", "layers-ranks", "source"],
        "model.peft": ["all-linear", "attention", "qlora-like", "small", "source"],
        "objective_weights": ["energy", "even", "latency", "power"],
        "optuna": ["preference", "source"],
        "surrogate": ["roofline", "source"],
        "training": ["quick", "small-model", "source"],
    }
    assert len(EVERY) == 51


@pytest.mark.parametrize(("section", "name"), EVERY)
def test_every_choice_is_valid_and_is_what_its_file_says(section, name):
    config = load("demo_fast", [f"{section}={name}"])
    values = groups.read(section, name)
    for key, value in values.items():
        if not isinstance(value, dict):
            assert attrgetter(f"{section}.{key}")(config) == (tuple(value) if isinstance(value, list) else value)
    if "name" in values:
        assert values["name"] == name


def test_choice_replaces_the_run_file_and_keys_replace_the_choice():
    config = load("demo_fast", ["dataset.max_new_tokens=7", "dataset=GSM8K"])
    assert (config.dataset.name, config.dataset.max_length, config.dataset.max_new_tokens) == ("gsm8k", 512, 7)
    assert config.dataset.train_limit == 1500  # of the run file
    assert load("demo", ["budgets=relative-60"]).budgets.energy_j is None


def test_every_packaged_file_is_a_choice_of_a_section_or_a_part_of_one():
    folder = resources.files("metas_peft.conf") / "group"
    files = Path(str(folder)).rglob("*.yaml")
    found = {(file.parent.relative_to(str(folder)).as_posix().replace("/", "."), file.stem) for file in files}
    assert found == set(EVERY)
    assert all(locate(section.split(".")).is_section for section, _ in EVERY)


def test_every_section_has_choices():
    sections = {key.path for key in walk() if key.is_section} - {"optuna.search_space", "training.distillation"}
    assert set(groups.choices()) == sections


@pytest.mark.parametrize("order", [("model=llama-2-7b", "model.peft=small"), ("model/peft=small", "model=llama-2-7b")])
def test_choice_for_a_part_replaces_one_for_the_whole_in_any_order(order):
    config = load("demo_fast", list(order))
    assert (config.model.name, config.model.peft.r, config.model.peft.alpha) == ("llama-2-7b", 4, 8.0)
    assert config.model.peft.dropout == 0.1  # of the whole
    assert load("demo_fast", ["model.peft.r=7", *order]).model.peft.r == 7
    assert "model.peft.r" in config.given


def test_gating_of_a_choice_means_trained_gates():
    run = ["front=auto", "model.gating=layers-ranks"]
    assert load("demo_fast", run).front == "gates"
    assert load("demo_fast", run).model.gating.granularity == METHODS["DiGASE"].gates


def test_all_rivals_are_those_that_can_share_a_dense_model():
    ours = METHODS["MetaS-PEFT"]
    able = [METHODS[name] for name in METHODS if not obstacle(ours, METHODS[name])]
    rivals = {m.name for m in able if m.setting != AS_DESCRIBED and m.settings_of != ours.name}
    assert set(groups.read("evaluation", "all-rivals")["baselines"]) == rivals


def test_sweep_over_a_part_has_the_same_folders_here_and_with_other_launchers(tmp_path):
    overrides = ["model.peft=small,source", f"output_dir={tmp_path}"]
    found = jobs("demo_fast", overrides)
    assert [load("demo_fast", job).model.peft.r for job in found] == [4, 8]
    run = launch("demo_fast", overrides, Flags(multirun=True), lambda config, folder: (config, folder))
    assert [config.model.peft.r for config, _ in run] == [4, 8]
    assert [folder.name for _, folder in run] == [load("demo_fast", job).run_id for job in found]


def test_source_s_choices_are_what_its_run_file_says():
    """But for what the file says of its own machine: where the surrogate is kept."""
    path = Path(__file__).parents[1] / "data" / "runs" / "proposed-iter1-Llama-2-7B-SST-2.yaml"
    theirs, ours = load(path, []), load("demo_fast", ["training=source", "optuna=source", "objective_weights=even"])
    for key in groups.read("training", "source"):
        assert getattr(ours.training, key) == getattr(theirs.training, key), key
    parts = load("demo_fast", ["model.peft=source", "model.gating=source", "evaluation=source"])
    assert (parts.model.peft, parts.model.gating) == (theirs.model.peft, theirs.model.gating)
    assert parts.evaluation.primary_metric == theirs.evaluation.primary_metric
    assert parts.evaluation.metrics == theirs.evaluation.metrics
    assert ours.optuna.search_space == theirs.optuna.search_space
    assert ours.objective_weights == theirs.objective_weights
    for key in ("n_hardware_tags", "calibration_samples", "calibration_method", "meta_training_devices"):
        assert getattr(load("demo_fast", ["surrogate=source"]).surrogate, key) == getattr(theirs.surrogate, key), key


def test_keys_of_a_choice_count_as_given():
    assert "model.peft.target_modules" in load("demo_fast", ["model=llama-2-7b"]).given
    assert "model.peft.target_modules" not in load("demo_fast", []).given


def test_sweep_goes_over_choices_as_over_values():
    found = jobs("demo_fast", ["dataset=sst2,cola", "method=MetaS-PEFT,EChorda"])
    assert [job[:2] for job in found] == [
        [f"dataset={task}", f"method={method}"] for task in ("sst2", "cola") for method in ("MetaS-PEFT", "EChorda")
    ]
    with pytest.raises(UsageError, match="Add --multirun"):
        load("demo_fast", ["dataset=sst2,cola"])


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("dataset=gsm9k", UnknownNameError, "did you mean 'gsm8k'.*Single keys are set as dataset.KEY=VALUE"),
        ("dataset=sst2,nothing", UnknownNameError, "no set of values called 'nothing'"),
        ("model.peft=smal", UnknownNameError, "did you mean 'small'.*Single keys are set as model.peft.KEY=VALUE"),
        ("training.distillation=x", RunFileError, "training.distillation is a section and expects keys"),
        ("model/dataset=x", UsageError, "groups are the sections budgets, controller, dataset, evaluation, "),
    ],
)
def test_choice_that_does_not_exist_is_one_sentence(override, error, message):
    with pytest.raises(error, match=message):
        load("demo_fast", [override])
