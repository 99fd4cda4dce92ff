import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metas_peft.surrogate.physics import project

positive = st.floats(1e-6, 1e6)


@settings(max_examples=200, deadline=None)
@given(energy=positive, latency=positive, peak=positive, cap=st.none() | st.floats(0.1, 1000))
def test_projection_obeys_physics(energy: float, latency: float, peak: float, cap: float | None) -> None:
    out = project(torch.tensor([[energy, latency, peak]], dtype=torch.float64), cap)[0]
    mean_power = out[0] / (out[1] * 1e-3)
    assert (out > 0).all()
    assert mean_power <= out[2] * (1 + 1e-12)
    assert cap is None or out[2] <= cap * (1 + 1e-12)
    assert out[1] == latency


def test_projection_leaves_the_possible_alone() -> None:
    costs = torch.tensor([[0.5, 100.0, 7.0], [1.0, 1000.0, 2.0]], dtype=torch.float64)
    assert torch.equal(project(costs, 9.0), costs)


def test_projection_lowers_energy_to_the_cap_and_raises_the_peak_to_the_mean() -> None:
    costs = torch.tensor([[2.0, 100.0, 5.0], [0.6, 100.0, 5.0]], dtype=torch.float64)
    out = project(costs, 10.0)
    assert torch.allclose(out, torch.tensor([[1.0, 100.0, 10.0], [0.6, 100.0, 6.0]], dtype=torch.float64))


@settings(max_examples=100, deadline=None)
@given(st.lists(positive, min_size=3, max_size=3), st.floats(1.0, 3.0), st.floats(1.0, 3.0), st.floats(0.5, 100))
def test_projection_is_monotone_in_energy_and_latency(
    costs: list[float], more_energy: float, more_latency: float, cap: float
) -> None:
    low = torch.tensor(costs, dtype=torch.float64)
    high = low * torch.tensor([more_energy, more_latency, 1.0], dtype=torch.float64)
    below, above = project(torch.stack([low, high]), cap)
    assert (above[:2] >= below[:2] * (1 - 1e-12)).all()


def test_projection_passes_gradients() -> None:
    costs = torch.tensor([[2.0, 100.0, 5.0], [0.5, 100.0, 7.0]], dtype=torch.float64, requires_grad=True)
    project(costs, 10.0).sum().backward()
    assert costs.grad is not None
    assert costs.grad.isfinite().all()
    assert costs.grad[1].tolist() == [1.0, 1.0, 1.0]
