"""The gates of a backbone: what they expect to keep, and whether a price reaches each of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metas_peft.backbones import shape_of
from metas_peft.core.cost import Cost
from metas_peft.core.errors import UnknownNameError, UsageError
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost, random_prefixes
from metas_peft.devices import Purpose, Specimen, open_device
from metas_peft.gates import GRANULARITIES, GateSet, counts_of, expected_subnet, gate_values, hard_concrete
from metas_peft.surrogate import shipped
from metas_peft.testing.tiny import random_subnet, tiny_adapted, tiny_model
from metas_peft.testing.tuning import tiny_cost_model
from metas_peft.tuning.pricing import Price

FAMILIES = ("bert", "llama", "gemma3")
FIELDS = ("attention", "ffn", "heads", "neurons", "ranks")


@pytest.fixture(scope="module", params=FAMILIES)
def shape(request):
    return tiny_adapted(request.param)[1]


def scattered(shape, granularities=GRANULARITIES, **settings):
    """Gates whose log-odds differ."""
    gates = GateSet(shape, granularities, seed=3, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return gates


def test_every_granularity_is_known():
    assert len(GRANULARITIES) == 6


def test_gates_start_with_the_expected_value_wanted_whatever_the_temperature(shape):
    for temperature in (0.5, 2 / 3, 2.0, 5.0):
        gates = GateSet(shape, GRANULARITIES, temperature=temperature, start=0.9)
        for value in vars(gates.expectations()).values():
            assert torch.allclose(value, torch.full_like(value, 0.9), atol=1e-5)


def test_expected_counts_are_the_mean_counts_of_samples(shape):
    gates = scattered(shape, temperature=2 / 3)
    expected = gates.expected_counts()
    draws = 1500
    sums = {name: torch.zeros_like(getattr(expected, name)) for name in FIELDS}
    squares = {name: torch.zeros_like(getattr(expected, name)) for name in FIELDS}
    with torch.no_grad():
        for _ in range(draws):
            values = gates.sample()
            kept = type(values)(**{name: (z > 0).float() for name, z in vars(values).items()})
            drawn = counts_of(kept, shape)
            for name in FIELDS:
                sums[name] += getattr(drawn, name)
                squares[name] += getattr(drawn, name) ** 2
    for name in FIELDS:
        mean = sums[name] / draws
        error = ((squares[name] / draws - mean**2).clamp_min(1e-6) / draws).sqrt()
        assert ((mean - getattr(expected, name)).abs() <= 5 * error).all(), name


@pytest.mark.parametrize("seed", range(6))
def test_counts_of_zeros_and_ones_are_the_counts_of_the_subnet(shape, seed):
    subnet = random_subnet(shape, seed)
    counted = counts_of(gate_values(subnet, shape), shape)
    exact = Counts.of(subnet, shape)
    for name in FIELDS:
        # A layer gate of 0 closes a layer that the plan leaves out; the parts of a kept one are the plan's.
        assert np.array_equal(getattr(counted, name).numpy(), getattr(exact, name)), name


@pytest.mark.parametrize("adapter", ["merged", "separate"])
def test_price_reaches_every_gate_that_costs_something(shape, adapter):
    gates = scattered(shape)
    model = tiny_cost_model(shape, Workload(seq_len=16, adapter=adapter))
    price = Price.on(model, Cost(1.0, 1.0, 1.0), shape)(gates.expected_counts())
    price.backward()
    for name, log_alpha in gates.log_alpha.items():
        if name == "rank" and adapter == "merged":
            # A merged adapter's rank costs nothing in a pass, so no price may pull at its gate.
            assert log_alpha.grad is None or not log_alpha.grad.any()
        else:
            assert log_alpha.grad.isfinite().all(), name
            assert (log_alpha.grad != 0).all(), name
            # More of anything never lowers this price.
            assert (log_alpha.grad > 0).all(), name


def test_price_of_gates_has_the_gradient_of_finite_differences(shape):
    gates = scattered(shape).double()
    price = Price.on(tiny_cost_model(shape), Cost(1.0, 2.0, 0.5), shape)
    price(gates.expected_counts()).backward()
    step = 1e-5
    for name in ("layer", "head", "ffn_block"):
        log_alpha = gates.log_alpha[name]
        place = tuple(size // 2 for size in log_alpha.shape)
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                log_alpha[place] += sign * step
                values.append(float(price(gates.expected_counts())))
                log_alpha[place] -= sign * step
        assert float(log_alpha.grad[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5), name


@pytest.mark.parametrize("temperature", [0.5, 2 / 3, 2.0, 5.0])
def test_price_of_expected_gates_is_felt_at_every_temperature(shape, temperature):
    gates = GateSet(shape, ("layer", "head", "ffn_block"), temperature=temperature).double()
    price = Price.on(tiny_cost_model(shape), Cost(1.0, 1.0, 1.0), shape)
    price(gates.soft_counts()).backward()
    for name, log_alpha in gates.log_alpha.items():
        assert (log_alpha.grad > 1e-4).all(), name
        place, step = tuple(size // 2 for size in log_alpha.shape), 1e-6
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                log_alpha[place] += sign * step
                values.append(float(price(gates.soft_counts())))
                log_alpha[place] -= sign * step
        # Where a quantile of the mid-point rule begins to be clipped, the rule has a kink.
        assert float(log_alpha.grad[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3), name


@pytest.mark.parametrize("adapter", ["merged", "separate"])
def test_price_through_the_surrogate_has_the_gradient_of_finite_differences(shape, adapter):
    workload, device = Workload(seq_len=16, adapter=adapter), open_device("pixel-8")
    points = [Specimen(subnet, shape) for subnet in random_prefixes(shape, 5, seed=0)]
    records = device.measure(points, workload, purpose=Purpose.CALIBRATION)
    surrogate = shipped().fit("metas", records, device.spec)
    price = Price.on(surrogate.bind(shape, workload), Cost(1.0, 2.0, 0.5), shape)
    gates = scattered(shape).double()
    price(gates.expected_counts()).backward()
    found, step = 0, 1e-4
    for name, log_alpha in gates.log_alpha.items():
        slope = log_alpha.grad
        for place in {tuple(size // 2 for size in log_alpha.shape), tuple(0 for _ in log_alpha.shape)}:
            with torch.no_grad():
                values = []
                for sign in (1, -1):
                    log_alpha[place] += sign * step
                    values.append(float(price(gates.expected_counts())))
                    log_alpha[place] -= sign * step
            estimate = (values[0] - values[1]) / (2 * step)
            expected = 0.0 if slope is None else float(slope[place])
            assert expected == pytest.approx(estimate, rel=1e-3, abs=1e-9), name
            found += expected != 0
    assert found >= (12 if adapter == "separate" else 10)


def test_open_gates_cost_what_the_whole_model_costs(shape):
    gates = GateSet(shape, GRANULARITIES)
    with torch.no_grad():
        for log_alpha in gates.log_alpha.values():
            log_alpha.fill_(20.0)
    counted = paper_cost(shape, gates.expected_counts(), Workload(seq_len=16))
    dense = paper_cost(shape, Counts.dense(shape), Workload(seq_len=16))
    assert float(counted.flops.detach()) == pytest.approx(float(dense.flops), rel=1e-5)


def test_gates_that_are_not_asked_for_stay_open(shape):
    gates = scattered(shape, ("head",))
    values = gates.sample()
    assert all((getattr(values, n) == 1).all() for n in GRANULARITIES if n != "head")
    assert list(gates.log_alpha) == ["head"]


@torch.no_grad()
def test_penalty_is_the_sum_of_probabilities(shape):
    gates = scattered(shape, ("layer", "rank"))
    p = gates.probabilities()
    assert float(gates.penalty()) == pytest.approx(float(p.layer.sum() + p.rank.sum()), rel=1e-6)


@torch.no_grad()
def test_places_without_a_rank_are_not_counted():
    shape = tiny_adapted("bert", rank=4)[1]
    sites = [replace(s, rank=2 if s.name == "q" else 4) for s in shape.sites]
    gates = GateSet(replace(shape, sites=tuple(sites)), ("rank",))
    gates.log_alpha["rank"].fill_(hard_concrete.log_alpha_for(0.5, gates.temperature))
    total = shape.n_layers * (2 + 4 * (len(sites) - 1))
    assert float(gates.expected_counts().ranks.sum()) == pytest.approx(total / 2, rel=1e-5)
    assert float(gates.penalty()) == pytest.approx(total / 2, rel=1e-5)
    value = float(gates.expectations().rank[0, 0, 0])
    kept = [len(r) for plan in expected_subnet(gates).layers for r in plan.ranks]
    assert sum(kept) == round(total * value)
    assert float(gates.soft_counts().ranks.sum()) == pytest.approx(total * value, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 2 / 3, 2.0, 5.0])
@pytest.mark.parametrize("expectation", [0.1, 0.5, 0.8, 0.95])
def test_log_alpha_for_expectation_inverts_expected_gate(temperature, expectation):
    log_alpha = torch.tensor(hard_concrete.log_alpha_for_expectation(expectation, temperature), dtype=torch.float64)
    assert float(hard_concrete.expected_gate(log_alpha, temperature)) == pytest.approx(expectation, abs=1e-6)


def test_samples_follow_the_seed_alone(shape):
    def drawn(seed):
        torch.manual_seed(seed * 17)  # the global state must not matter
        return GateSet(shape, GRANULARITIES, start=0.5, seed=seed).sample().head

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_unknown_granularity_names_the_nearest(shape):
    with pytest.raises(UnknownNameError, match="'heads': did you mean 'head'"):
        GateSet(shape, ("heads",))


def test_backbone_without_adapters_has_no_rank_to_gate():
    model = tiny_model("bert")
    counts = GateSet(shape_of(model), ("head", "rank")).expected_counts()
    assert counts.ranks.shape == (3, 0)
    with pytest.raises(UsageError, match="Rank gates need LoRA adapters"):
        GateSet.of(model, ("head", "rank"))


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": -1.0}, {"start": 1.5}, {"start": 0.0}])
def test_temperature_and_start_out_of_range_are_refused(shape, settings):
    with pytest.raises(UsageError, match="expected a positive temperature"):
        GateSet(shape, ("head",), **settings)


def test_open_share_counts_only_places_that_stand_for_a_rank():
    _, shape = tiny_adapted("bert")
    sites = tuple(replace(site, rank=8 if i == 0 else 2) for i, site in enumerate(shape.sites))
    gates = GateSet(replace(shape, sites=sites), ("head", "rank"))
    assert gates.count == 3 * 4 + 3 * sum(site.rank for site in sites)
    p = hard_concrete.probability_open(gates.log_alpha["head"].detach(), gates.temperature)
    assert float(gates.penalty().detach()) / gates.count == pytest.approx(float(p.mean()))
