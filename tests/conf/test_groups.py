"""Named sets of values for a section: what there is, what they replace, and sweeps over them."""

from pathlib import Path

import pytest

from metas_peft.backbones.catalogue import BACKBONES
from metas_peft.conf import groups
from metas_peft.conf.compose import jobs, load
from metas_peft.core.errors import RunFileError, UnknownNameError, UsageError
from metas_peft.tasks import TASKS

EVERY = [(section, name) for section, names in groups.choices().items() for name in names.values()]


def test_groups_are_these_and_know_the_names_of_the_registries():
    names = {section: sorted(known.values()) for section, known in groups.choices().items()}
    assert names == {
        "budgets": ["relative-40", "relative-60", "relative-80", "source"],
        "dataset": sorted(TASKS),
        "model": sorted(BACKBONES),
        "objective_weights": ["energy", "even", "latency", "power"],
        "optuna": ["preference", "source"],
        "surrogate": ["roofline", "source"],
        "training": ["quick", "small-model", "source"],
    }
    assert len(EVERY) == 30


@pytest.mark.parametrize(("section", "name"), EVERY)
def test_every_choice_is_valid_and_is_what_its_file_says(section, name):
    config = load("demo_fast", [f"{section}={name}"])
    values = groups.read(section, name)
    for key, value in values.items():
        if not isinstance(value, dict):
            assert getattr(getattr(config, section), key) == (tuple(value) if isinstance(value, list) else value)
    if "name" in values:
        assert values["name"] == name


def test_choice_replaces_the_run_file_and_keys_replace_the_choice():
    config = load("demo_fast", ["dataset.max_new_tokens=7", "dataset=GSM8K"])
    assert (config.dataset.name, config.dataset.max_length, config.dataset.max_new_tokens) == ("gsm8k", 512, 7)
    assert config.dataset.train_limit == 1500  # of the run file
    assert load("demo", ["budgets=relative-60"]).budgets.energy_j is None


def test_source_s_choices_are_what_its_run_file_says():
    """But for what the file says of its own machine: where the surrogate is kept."""
    path = Path(__file__).parents[1] / "data" / "runs" / "proposed-iter1-Llama-2-7B-SST-2.yaml"
    theirs, ours = load(path, []), load("demo_fast", ["training=source", "optuna=source", "objective_weights=even"])
    for key in groups.read("training", "source"):
        assert getattr(ours.training, key) == getattr(theirs.training, key), key
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
        ("evaluation=quick", RunFileError, "evaluation is a section and expects keys"),
        ("model/dataset=x", UsageError, "groups are the sections budgets, dataset, model, objective_weights, optuna, "),
    ],
)
def test_choice_that_does_not_exist_is_one_sentence(override, error, message):
    with pytest.raises(error, match=message):
        load("demo_fast", [override])
