import pytest
import torch

from metas_peft.surrogate.network import TAG, Standardiser, Weights, adapt, forward, initial_weights, predict

FEATURES, DEVICES = 6, 4


@pytest.fixture
def weights() -> Weights:
    return {name: value.to(torch.float64) for name, value in initial_weights([1, 2], FEATURES, DEVICES).items()}


def sample(n: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, n, FEATURES, generator=generator, dtype=torch.float64)
    return features, features[..., :3] * 0.5 + 3.0


def test_forward_is_the_network_of_the_source(weights: Weights) -> None:
    """Embedding of 8, then 64, 64, 3 with ReLU, fed with features and embedded tag side by side."""
    features, _ = sample(7)
    tags = torch.tensor([0, 3, 1, 1, 2, 0, 3])
    for e in range(2):
        embedding = torch.nn.Embedding(DEVICES, 8, dtype=torch.float64)
        layers = torch.nn.Sequential(
            torch.nn.Linear(FEATURES + 8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(),
            torch.nn.Linear(64, 3),
        ).double()  # fmt: skip
        with torch.no_grad():
            embedding.weight.copy_(weights["tags"][e])
            for layer, number in ((0, 1), (2, 2), (4, 3)):
                layers[layer].weight.copy_(weights[f"w{number}"][e].T)
                layers[layer].bias.copy_(weights[f"b{number}"][e, 0])
        expected = layers(torch.cat([features[0], embedding(tags)], dim=-1))
        found = forward(weights, features, weights["tags"][:, tags])[e]
        assert torch.allclose(found, expected, atol=1e-12)


def test_networks_side_by_side_equal_networks_alone(weights: Weights) -> None:
    features, costs = sample()
    start = weights["tags"].mean(1, keepdim=True)
    both = adapt(weights, start, features, costs, torch.ones_like(costs), 4, create_graph=False)
    for e in range(2):
        single = {name: value[e : e + 1] for name, value in weights.items()}
        alone = adapt(single, start[e : e + 1], features, costs, torch.ones_like(costs), 4, create_graph=False)
        assert torch.allclose(both.tag[e], alone.tag[0], atol=1e-12)
        assert torch.allclose(predict(weights, both, features)[e], predict(single, alone, features)[0], atol=1e-12)


def test_adaptation_lowers_the_error_and_meets_the_level(weights: Weights) -> None:
    features, costs = sample()
    known = torch.ones_like(costs)
    start = weights["tags"].mean(1, keepdim=True)
    before = adapt(weights, start, features, costs, known, 0, create_graph=False)
    after = adapt(weights, start, features, costs, known, 20, create_graph=False)
    errors = [(predict(weights, d, features) - costs).square().mean((1, 2)) for d in (before, after)]
    assert (errors[1] < errors[0]).all()
    residual = (predict(weights, after, features) - costs).mean(1)
    assert torch.allclose(residual, torch.zeros_like(residual), atol=1e-9)


def test_adaptation_ignores_what_was_not_measured(weights: Weights) -> None:
    features, costs = sample()
    start = weights["tags"].mean(1, keepdim=True)
    known = torch.ones_like(costs)
    known[0, 2, 1] = 0
    other = costs.clone()
    other[0, 2, 1] = 99.0
    found = [adapt(weights, start, features, c, known, 3, create_graph=False) for c in (costs, other)]
    assert torch.equal(found[0].tag, found[1].tag)
    assert torch.equal(found[0].level, found[1].level)


def test_outer_gradient_flows_through_adaptation(weights: Weights) -> None:
    features, costs = sample()
    query, target = sample(9, seed=1)
    leaf = weights["log_step_tag"].clone().requires_grad_()

    def outer(step: torch.Tensor) -> torch.Tensor:
        changed = {**weights, "log_step_tag": step}
        start = changed["tags"].mean(1, keepdim=True).clone().requires_grad_()
        device = adapt(changed, start, features, costs, torch.ones_like(costs), 3, create_graph=True)
        return (predict(changed, device, query) - target).square().mean()

    outer(leaf).backward()
    epsilon = 1e-5
    nudge = torch.zeros_like(leaf)
    nudge[1] = epsilon
    with torch.enable_grad():
        slope = (outer(leaf.detach() + nudge) - outer(leaf.detach() - nudge)) / (2 * epsilon)
    assert leaf.grad is not None
    assert float(leaf.grad[1]) == pytest.approx(float(slope.detach()), rel=1e-4)


def test_initial_weights_depend_on_their_own_seed_alone() -> None:
    many, one = initial_weights([5, 9], FEATURES, DEVICES), initial_weights([9], FEATURES, DEVICES)
    assert all(torch.equal(many[name][1], one[name][0]) for name in many)
    assert many["tags"].shape == (2, DEVICES, TAG)
    assert not torch.equal(many["w1"][0], many["w1"][1])


def test_standardiser_leaves_a_column_that_never_varies_finite() -> None:
    columns = torch.ones(10, 11, dtype=torch.float64)
    columns[:, 0] = torch.arange(10)
    out = Standardiser.learn(columns)(columns)
    assert out.isfinite().all()
    assert float(out[:, 0].std(unbiased=False)) == pytest.approx(1.0)
