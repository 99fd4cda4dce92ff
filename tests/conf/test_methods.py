"""The table of methods against the method's reference."""

import pytest

from metas_peft.conf import METHODS, CostTerm, RunConfig, Shape
from metas_peft.conf.keys import locate
from metas_peft.conf.values import replace
from metas_peft.core.errors import UnknownNameError


@pytest.mark.parametrize(
    ("alias", "name", "gates", "cost_term", "measurements"),
    [
        ("proposed", "MetaS-PEFT", ("layer", "head", "rank"), CostTerm.SURROGATE, 5),
        ("comparative-1", "EChorda", ("layer", "head", "rank"), CostTerm.TARGET, 200),
        ("comparative-2", "DiGASE", ("layer", "rank"), CostTerm.MACS, 0),
        ("comparative-3", "static-lora", (), CostTerm.NONE, 0),
        ("baseline", "baseline", (), CostTerm.NONE, 0),
        ("Static_LoRA", "static-lora", (), CostTerm.NONE, 0),
        ("drop-top", "drop-top", (), CostTerm.NONE, 0),
        ("drop_alternate", "drop-alternate", (), CostTerm.NONE, 0),
    ],
)
def test_alias_finds_its_row(alias, name, gates, cost_term, measurements):
    method = METHODS[alias]
    assert (method.name, method.gates, method.cost_term, method.target_measurements) == (
        name,
        gates,
        cost_term,
        measurements,
    )


def test_only_the_baseline_trains_all_weights():
    assert [name for name in METHODS if METHODS[name].trains_all] == ["baseline"]


def test_ablations_change_keys_that_exist_to_values_that_fit():
    ablations = [METHODS[name] for name in METHODS if name.startswith("ablation-")]
    assert len(ablations) == 7
    for ablation in ablations:
        assert ablation.changes
        assert ablation.shape is Shape.GATED
        assert replace(RunConfig(), ablation.changes) != RunConfig()
        assert all(locate(path.split(".")).path == path for path in ablation.changes)


def test_every_method_has_one_that_does_the_work():
    from metas_peft.tuning.methods import METHODS as WORKING

    assert {METHODS[name].runs_as for name in METHODS} == set(WORKING)


def test_typo_in_an_alias_names_the_method():
    with pytest.raises(UnknownNameError, match="did you mean 'EChorda'"):
        METHODS["comparativ-1"]
