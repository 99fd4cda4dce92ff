"""Hard-concrete gates: the closed forms against a million samples."""

import math

import pytest
import torch

from metas_peft.gates import hard_concrete as hc

TEMPERATURES = (0.2, 0.5, 2 / 3, 2.0, 5.0)
LOG_ALPHAS = (-4.0, -1.0, 0.0, 0.7, 3.0)
N = 200_000


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def samples(log_alpha, temperature, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return hc.sample(torch.full((N,), log_alpha, dtype=torch.float64), temperature, generator)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("log_alpha", LOG_ALPHAS)
def test_probability_open_is_the_share_of_samples_above_zero(log_alpha, temperature):
    share = float((samples(log_alpha, temperature) > 0).double().mean())
    expected = float(hc.probability_open(torch.tensor(log_alpha), temperature))
    assert share == pytest.approx(expected, abs=4 * math.sqrt(max(expected * (1 - expected), 1e-6) / N))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("log_alpha", LOG_ALPHAS)
def test_expected_gate_is_the_mean_of_samples(log_alpha, temperature):
    drawn = samples(log_alpha, temperature)
    expected = float(hc.expected_gate(torch.tensor(log_alpha, dtype=torch.float64), temperature))
    # Sampling error and the mid-point rule of 64 quantiles.
    assert float(drawn.mean()) == pytest.approx(expected, abs=4 * float(drawn.std()) / math.sqrt(N) + 2e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("probability", [0.01, 0.3, 0.5, 0.95, 0.999])
def test_log_alpha_for_inverts_probability_open(probability, temperature):
    log_alpha = hc.log_alpha_for(probability, temperature)
    assert float(hc.probability_open(torch.tensor(log_alpha, dtype=torch.float64), temperature)) == pytest.approx(
        probability, rel=1e-9
    )


def test_log_odds_zero_at_the_sources_temperature_are_nearly_always_open():
    # 1 / (1 + 11^-2): the reason why gates are initialised by the probability wanted.
    assert float(hc.probability_open(torch.tensor(0.0), 2.0)) == pytest.approx(121 / 122, rel=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_samples_reach_both_ends_exactly_and_nothing_beyond(temperature):
    drawn = torch.cat([samples(-4.0, temperature), samples(4.0, temperature)])
    assert float(drawn.min()) == 0.0
    assert float(drawn.max()) == 1.0


def test_same_generator_gives_the_same_samples():
    assert torch.equal(samples(0.3, 2 / 3, seed=5), samples(0.3, 2 / 3, seed=5))
    assert not torch.equal(samples(0.3, 2 / 3, seed=5), samples(0.3, 2 / 3, seed=6))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_of_probability_agrees_with_finite_differences(temperature):
    a = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: hc.probability_open(x, temperature), (a,))
    assert torch.autograd.gradcheck(lambda x: hc.expected_gate(x, temperature), (a,), eps=1e-6, atol=1e-4)


def test_gradient_of_a_sample_is_that_of_its_noise_held_fixed():
    a = torch.tensor([0.2, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: hc.sample(x, 2.0, torch.Generator().manual_seed(1)), (a,))


def test_expected_gate_still_separates_gates_whose_probabilities_do_not():
    a = torch.tensor([3.0, 3.5])
    spread = hc.probability_open(a, 5.0).diff().abs(), hc.expected_gate(a, 5.0).diff().abs()
    assert float(spread[0]) < 1e-6 < 1e-2 < float(spread[1])
