"""Nothing that a run file sets is ignored in silence."""

import pytest

from metas_peft.conf.compose import load
from metas_peft.conf.notices import budgets_at_odds, notices, pool_names
from metas_peft.conf.schema import BudgetsConfig


def idle(config):
    return [n for n in notices(config) if n.startswith("Without effect")]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["front=gates", "training.path_steps=9"], "training.path_steps; with front=gates"),
        (["front=nested", "training.gate_steps=9"], "training.gate_steps; with front=nested"),
        (["front=nested", "model.gating.gate_learning_rate=0.1"], "model.gating.gate_learning_rate; with front=nested"),
        (
            ["method=static-lora", "model.gating.gate_learning_rate=0.1", "evaluation.baselines=[drop-top]"],
            "model.gating.gate_learning_rate; no method here has gates",
        ),
        (["method=static-lora", "front=gates", "evaluation.baselines=[]"], "front; no method here makes smaller"),
        (
            ["method=static-lora", "training.gate_steps=9", "evaluation.baselines=[drop-top]"],
            "training.gate_steps; no method here has gates",
        ),
        (["method=static-lora"], "retarget; only a method with a surrogate"),
        (["method=static-lora", "training.path_steps=9", "evaluation.baselines=[]"], "training.path_steps; no method"),
        (["method=EChorda", "objective_weights.nu_power=2"], "objective_weights.nu_power; EChorda looks at energy"),
        (
            ["method=DiGASE", "objective_weights={nu_power: 2}", "evaluation.baselines=[]"],
            "objective_weights; no method",
        ),
        (["method=baseline", "model.peft.r=4"], "model.peft; this method trains all weights"),
        (["training.warmup_steps=5", "training.warmup_ratio=0.1"], "training.warmup_ratio; training.warmup_steps"),
        (
            ["evaluation.baselines=[]", "hardware_profiling.measurement_cache_dir=kept"],
            "hardware_profiling.measurement_cache_dir; EChorda is neither",
        ),
        (
            ["method=static-lora", "evaluation.baselines=[]", "surrogate.records=500"],
            "surrogate; no method here uses a surrogate",
        ),
        (
            ["method=EChorda", "surrogate.calibration_samples=7"],
            "surrogate.calibration_samples; EChorda fits",
        ),
        (
            ["evaluation.baselines=[]", "hardware_profiling.real_measurements_required=50"],
            "hardware_profiling.real_measurements_required; EChorda is neither",
        ),
        (["optuna.n_trials=3", "optuna.direction=minimize"], "optuna; a single run does not search"),
        (["surrogate.kind=roofline", "surrogate.mixup=false"], "surrogate.mixup; they belong to the source's network"),
        (
            ["surrogate.records=500", "surrogate.meta_training_devices=[macbook-m2, epyc]"],
            "surrogate.meta_training_devices, surrogate.records; the surrogate that ships",
        ),
        (["surrogate.calibration_samples=0", "surrogate.calibration_design=random"], "surrogate.calibration_design;"),
    ],
)
def test_key_without_effect_is_named_with_the_reason(overrides, named):
    assert any(named in sentence for sentence in idle(load("demo", overrides)))


@pytest.mark.parametrize(
    "overrides",
    [
        ["front=gates", "training.gate_steps=9", "model.gating.granularity=[head]"],
        ["method=EChorda", "objective_weights.nu_power=0", "retarget=[]"],
        [
            "method=static-lora",
            "front=gates",
            "training.gate_steps=9",
            "evaluation.baselines=[drop-top]",
            "retarget=[]",
        ],
        [
            "method=static-lora",
            "evaluation.baselines=[EChorda]",
            "hardware_profiling.real_measurements_required=50",
            "retarget=[]",
        ],
    ],
)
def test_key_with_effect_is_not_named(overrides):
    assert idle(load("demo", overrides)) == []


def test_keys_that_nobody_set_are_not_complained_about():
    assert idle(load("demo")) == []


@pytest.mark.parametrize(("energy_j", "binds"), [(0.87, True), (0.88, False), (6.0, False)])
def test_energy_budget_binds_only_below_latency_times_power(energy_j, binds):
    sentences = budgets_at_odds(BudgetsConfig(energy_j=energy_j, latency_ms=80.0, peak_power_w=11.0))
    assert bool(sentences) is not binds


def test_budgets_without_all_three_limits_are_not_at_odds():
    assert budgets_at_odds(BudgetsConfig(energy_j=6.0, latency_ms=80.0)) == []


def test_target_named_twice_says_which_is_taken():
    config = load("demo", ["device=local", "hardware_profiling.target_device=pixel-8"])
    assert config.target == "local"
    assert "device=local replaces hardware_profiling.target_device=pixel-8." in notices(config)


def test_target_named_twice_by_two_spellings_says_nothing():
    config = load("demo", ["device=pixel-8", "hardware_profiling.target_device=Google-Pixel-8-EdgeTPU"])
    assert not any("replaces" in n for n in notices(config))


def test_pool_that_nobody_learns_from_is_not_spoken_of():
    config = load("demo", ["method=static-lora", "evaluation.baselines=[]", "retarget=[]"])
    assert not any("left out" in sentence for sentence in notices(config))


def test_named_pool_without_the_target_leaves_nothing_out():
    config = load("demo", ["surrogate.meta_training_devices=four"])
    assert len(pool_names(config)) == 4
    assert not any("left out" in n for n in notices(config))


def test_number_of_tags_that_does_not_match_the_pool_is_said():
    (sentence,) = [n for n in notices(load("demo", ["surrogate.n_hardware_tags=8"])) if "n_hardware_tags" in n]
    assert "names 6 devices" in sentence
    assert "5 tags are used" in sentence


def test_ablation_says_what_it_changes():
    assert "ablation-no-meta sets surrogate.meta_learning=False, surrogate.kind=reference." in notices(
        load("demo", ["method=ablation-no-meta"])
    )
