"""Types, bounds, spellings and names of values."""

import pytest

from metas_peft.conf.keys import locate, searched, walk
from metas_peft.conf.schema import BudgetsConfig, RunConfig
from metas_peft.conf.values import build, dump, leaves, normalise, replace, to_dict
from metas_peft.core.errors import RunFileError, UnknownKeyError, UsageError


def test_every_key_says_what_it_does_and_has_a_default():
    keys = list(walk())
    assert len([k for k in keys if not k.is_section]) == 102
    assert len([k for k in keys if k.is_section]) == 14
    for key in keys:
        assert key.rule.doc.endswith("."), key.path
        assert len(key.rule.doc) >= len("Adapters."), key.path


def test_no_key_shares_a_name_or_alias_with_its_neighbours():
    names = [(k.path.rpartition(".")[0], name) for k in walk() for name in (k.leaf, *k.rule.aliases)]
    assert len(names) == len(set(names))


def test_defaults_survive_a_round_trip():
    assert build(to_dict(RunConfig())) == RunConfig()


def test_defaults_pass_their_own_checks():
    assert normalise(to_dict(RunConfig())) == to_dict(RunConfig())


def test_dumped_configuration_is_a_run_file(tmp_path):
    from metas_peft.conf.runfile import read_run

    config = replace(RunConfig(run_id="x"), {"training.learning_rate": 2e-5, "model.architecture_notes": "1e-5"})
    path = tmp_path / "x.yaml"
    path.write_text(dump(config))
    assert build(read_run(str(path)).data) == config


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("training.learning_rate", 1, 1.0),
        ("training.num_epochs", 3.0, 3),
        ("training.warmup_steps", None, None),
        ("run_id", 7, "7"),
        ("retarget", "local", ("local",)),
        ("model.peft.target_modules", "all-linear", "all-linear"),
        ("model.peft.target_modules", "ALL_LINEAR", "all-linear"),
        ("model.peft.target_modules", "q_proj", ("q_proj",)),
        ("model.peft.target_modules", ["q", "v"], ("q", "v")),
        ("model.peft.method", "lora", "LoRA"),
        ("model.precision", "bf16", "bfloat16"),
        ("model.gating.granularity", ["Layer", "ffn-block"], ("layer", "ffn_block")),
        ("evaluation.primary_metric", "4-D_hyper_volume", "hypervolume"),
        ("evaluation.metrics", ["power_w", "hv", "surrogate_mae"], ("peak_power_w", "hypervolume", "surrogate_error")),
        ("evaluation.operating_points", [1, 0.5], (1.0, 0.5)),
        ("surrogate.mixup", False, False),
    ],
)
def test_value_is_taken_in_the_type_of_the_schema(path, value, expected):
    config = replace(RunConfig(), {path: value})
    for part in path.split("."):
        config = getattr(config, part)
    assert config == expected
    assert type(config) is type(expected)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.num_epochs", "three", "expects a whole number (at least 1), not the text 'three'"),
        ("training.num_epochs", 1.5, "not the number 1.5"),
        ("training.num_epochs", True, "not true"),
        ("training.num_epochs", 0, "(at least 1), not the number 0"),
        ("training.learning_rate", "2e-5", "not the text '2e-5'. Leave out the quotes."),
        ("training.learning_rate", -1, "(above 0)"),
        ("training.learning_rate", float("nan"), "not the number nan"),
        ("training.learning_rate", float("inf"), "not the number inf"),
        ("training.learning_rate", [1], "not the list [1]"),
        ("training.lr_scheduler", "cosinus", "one of 'linear', 'cosine', 'constant'"),
        ("surrogate.mixup", "no", "expects true or false"),
        ("surrogate.records", 3000, "below 3000"),
        ("run_id", 1.5, "Put it in quotes."),
        ("run_id", "a/b", "expects the name of a folder"),
        ("run_id", "..", "expects the name of a folder"),
        ("model.peft.target_modules", ["q", 1.5], "a list of texts or 'all-linear'"),
        ("model.peft", 3, "expects keys under it"),
        ("evaluation.operating_points", [], "one to twenty"),
        ("evaluation.operating_points", [0.5, 0.5], "one to twenty different"),
        ("evaluation.operating_points", [0.01 * i for i in range(1, 30)], "one to twenty"),
        ("evaluation.operating_points", [1.2], "at most 1"),
        ("surrogate.meta_training_devices", [], "is empty"),
        ("surrogate.calibration_samples", 1, "0 or at least 2"),
        ("model.gating.gate_ramp", 0.05, "at least gate_warmup (0.1), not 0.05"),
        ("budgets.relative", 1.5, "(above 0 and at most 1)"),
    ],
)
def test_value_that_does_not_fit_is_refused_by_name(path, value, message):
    with pytest.raises(RunFileError) as caught:
        replace(RunConfig(), {path: value})
    assert path in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("training.epoch", "training.num_epochs"),
        ("training.learning_rat", "training.learning_rate"),
        ("trainig.seed", "training"),
        ("seed", "training.seed"),
        ("learning_rate", "training.learning_rate"),
        ("model.r", "model.peft.r"),
        ("model.peft.rankk", "model.peft.r"),
        ("budgets.latency", "budgets.latency_ms"),
        ("target_device", "hardware_profiling.target_device"),
        ("batch_size", "dataset.batch_size"),
        ("hard_concrete_temp", "model.gating.hard_concrete_temperature"),
        ("objectives.mu_latency", "objective_weights"),
        ("datasets", "dataset"),
    ],
)
def test_unknown_key_names_the_nearest_right_one(written, meant):
    data = value = {}
    *above, last = written.split(".")
    for part in above:
        value[part] = value = {}
    value[last] = 1
    with pytest.raises(UnknownKeyError, match=rf"did you mean '{meant}'\?"):
        normalise(data)


def test_unknown_key_without_a_neighbour_lists_what_exists():
    with pytest.raises(UnknownKeyError, match=r"unknown key 'zzz'\. Known at the top: run_id, method"):
        normalise({"zzz": 1})


def test_key_given_by_two_of_its_names_is_refused():
    with pytest.raises(RunFileError, match="training.num_epochs is given twice"):
        normalise({"training": {"epochs": 3, "num_epochs": 3}})


def test_empty_section_sets_nothing():
    assert leaves(normalise({"budgets": None, "training": {}, "optuna": {"search_space": None}})) == frozenset()


def test_path_below_a_value_is_refused():
    with pytest.raises(UnknownKeyError, match=r"training\.seed is a value and holds no keys"):
        locate(["training", "seed", "x"])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("learning_rate", "training.learning_rate"),
        ("lambda_energy", "objective_weights.lambda_energy"),
        ("mu_latency", "objective_weights.mu_latency"),
        ("nu_power", "objective_weights.nu_power"),
        ("r", "model.peft.r"),
        ("batch_size", "dataset.batch_size"),
        ("hard_concrete_temperature", "model.gating.hard_concrete_temperature"),
        ("gate_sparsity_regulariser", "model.gating.gate_sparsity_regulariser"),
        ("epochs", "training.num_epochs"),
        ("front", "front"),
        ("model.name", "model.name"),
    ],
)
def test_searched_name_resolves_to_its_place(name, path):
    assert searched(name).path == path


def test_searched_name_of_two_keys_lists_both():
    with pytest.raises(UnknownKeyError, match=r"'name' is ambiguous; write one of model\.name, dataset\.name"):
        searched("name")


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ({"type": "uniform", "low": 2, "high": 1}, "`low` below `high`"),
        ({"type": "loguniform", "low": 0, "high": 1}, "above 0"),
        ({"type": "categorical"}, "`choices`"),
        ({"type": "categorical", "choices": [1, 2], "low": 1}, "takes `choices` alone"),
        ({"type": "uniform", "low": 1, "high": 2, "choices": [1, 2]}, "no `choices`"),
        ({"type": "int", "low": 1}, "`low` below `high`"),
        ({"type": "normal"}, "one of 'loguniform'"),
    ],
)
def test_search_range_that_makes_no_sense_is_refused(span, message):
    with pytest.raises(RunFileError, match="optuna.search_space.r") as caught:
        build({"optuna": {"search_space": {"r": span}}})
    assert message in str(caught.value)


def test_search_of_an_unknown_key_is_refused():
    with pytest.raises(UnknownKeyError, match="did you mean 'learning_rate'"):
        build({"optuna": {"search_space": {"learning_rates": {"low": 1, "high": 2}}}})


def test_search_choices_keep_their_own_types():
    space = {
        "r": {"type": "categorical", "choices": [4, 8.0]},
        "lr_scheduler": {"type": "categorical", "choices": ["linear", "cosine"]},
        "mixup": {"type": "suggest_categorical", "choices": [True, False]},
    }
    spans = build({"optuna": {"search_space": space}}).optuna.search_space
    assert [type(c) for span in spans.values() for c in span.choices] == [int, float, str, str, bool, bool]


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("suggest_float", "float"),
        ("FloatDistribution", "float"),
        ("suggest_loguniform", "loguniform"),
        ("UniformDistribution", "uniform"),
        ("IntDistribution", "int"),
        ("CategoricalDistribution", "categorical"),
    ],
)
def test_ranges_may_have_optunas_names(written, ours):
    ends = {"choices": [4, 8]} if ours == "categorical" else {"low": 4, "high": 8}
    key = "r" if ours in ("int", "categorical") else "lambda_energy"
    assert build({"optuna": {"search_space": {key: {"type": written, **ends}}}}).optuna.search_space[key].type == ours


@pytest.mark.parametrize(
    ("name", "span", "message"),
    [
        ("r", {"type": "int", "low": 0, "high": 8}, "at least 1"),
        ("r", {"type": "uniform", "low": 4, "high": 8}, "type: int"),
        ("r", {"type": "int", "low": 4.5, "high": 8}, "whole number"),
        ("batch_size", {"type": "categorical", "choices": [8, "x"]}, "not the text 'x'"),
        ("learning_rate", {"type": "float", "low": 0, "high": 1, "log": True}, "above 0"),
        ("learning_rate", {"type": "float", "low": 0.1, "high": 1, "log": True, "step": 0.1}, "one or the other"),
        ("evaluation.seq_len", {"type": "int", "low": 4, "high": 8}, "not for a search"),
        ("model", {"type": "int", "low": 4, "high": 8}, "unknown key"),
    ],
)
def test_range_that_its_key_would_refuse_is_refused(name, span, message):
    with pytest.raises(UsageError, match=message):
        build({"optuna": {"search_space": {name: span}}})


def test_fraction_of_one_metric_goes_before_that_of_all_three():
    budgets = BudgetsConfig(relative=0.6, relative_power=1.0)
    assert budgets.fractions() == {"energy_j": 0.6, "latency_ms": 0.6, "peak_power_w": 1.0}
    assert BudgetsConfig(relative_latency=0.5).fractions() == {"latency_ms": 0.5}
    assert BudgetsConfig().fractions() == {}
