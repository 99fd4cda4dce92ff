"""Overrides in Hydra's grammar, in the schema's names."""

import pytest

from metas_peft.conf.overrides import as_text, translate
from metas_peft.core.errors import RunFileError, UnknownKeyError, UsageError


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        ("training.epochs=3", ["++training.num_epochs=3"]),
        ("+training.seed=3", ["++training.seed=3"]),
        ("++budgets.power_w=11", ["++budgets.peak_power_w=11"]),
        ("~budgets.power_w", ["~budgets.peak_power_w"]),
        ("model.peft={rank: 4, alpha: 8}", ["++model.peft.r=4", "++model.peft.alpha=8"]),
        (
            "training={distillation: {kl: 0.1}, lr: 1e-3}",
            ["++training.distillation.kl=0.1", "++training.learning_rate=0.001"],
        ),
        ("optuna.search_space.r.low=2", ["++optuna.search_space.r.low=2"]),
        ("hydra/launcher=basic", ["hydra/launcher=basic"]),
        ("hydra.sweep.dir=x", ["hydra.sweep.dir=x"]),
        ("dataset.path=/a b/c.csv", ["++dataset.path=/a b/c.csv"]),
    ],
)
def test_override_is_rewritten_in_the_names_of_the_schema(written, texts):
    assert [o.text for o in translate([written])] == texts


def test_sweep_keeps_one_value_for_a_dry_run():
    (override,) = translate(["training.epochs=3,4"])
    assert override.sweeps
    assert (override.text, override.sample) == ("++training.num_epochs=3,4", "++training.num_epochs=3")


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        ("training.epoch=3", UnknownKeyError, "did you mean 'training.num_epochs'"),
        ("training.num_epochs=abc", RunFileError, "override 'training.num_epochs=abc': training.num_epochs expects"),
        ("training.num_epochs=1,two", RunFileError, "not the text 'two'"),
        ("training.num_epochs=range(0,3)", RunFileError, "not the number 0"),
        ("training.learning_rate=interval(0,1)", UsageError, "write the values out"),
        ("training=3", RunFileError, "is a section and expects keys"),
        ("training={seeds: 3}", UnknownKeyError, "did you mean 'training.seed'"),
        ("foo", UsageError, "Write key=value"),
        ("training.seed=[1", UsageError, "cannot be read"),
        ("--trials", UsageError, "No such option: --trials"),
        ("training.distillation=short,long", RunFileError, "training.distillation is a section"),
        ("training/distillation=short", UsageError, "write key=value"),
    ],
)
def test_wrong_override_is_refused_in_one_sentence(written, error, message):
    with pytest.raises(error) as caught:
        translate([written])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_survive_their_text():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    for value in (None, True, 3, 0.5, 1e-05, "a, b", 'say "x"', "a\\b", "", ["x", 1], {"a": {"b": [1, None]}}):
        assert parser.parse_override(f"k={as_text(value)}").value() == value
