"""Gates on a model: exact at 0 and 1, differentiable between, gone afterwards."""

import pytest
import torch

from metas_peft.core.records import Subnet
from metas_peft.gates import GRANULARITIES, GateSet, gate_values, gated, masked
from metas_peft.testing.tiny import TINY_CONFIGS, random_subnet, tiny_adapted, tiny_batch


@pytest.fixture(params=sorted(TINY_CONFIGS))
def tiny(request):
    adapted, shape = tiny_adapted(request.param)
    return adapted.get_base_model(), shape


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_gated_leaves_no_trace(tiny):
    model, shape = tiny
    batch, before = tiny_batch(), {k: v.clone() for k, v in model.state_dict().items()}
    expected, names, had = logits(model, batch), [n for n, _ in model.named_modules()], hooks(model)
    with gated(model, shape, GateSet(shape, GRANULARITIES, probability_open=0.5).sample):
        assert hooks(model) > had
        assert not torch.equal(logits(model, batch), expected)
    assert hooks(model) == had
    assert [n for n, _ in model.named_modules()] == names
    assert torch.equal(logits(model, batch), expected)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_gated_leaves_no_trace_when_the_block_raises(tiny):
    model, shape = tiny
    had = hooks(model)
    with pytest.raises(ZeroDivisionError), masked(model, shape, Subnet.dense(shape)):
        _ = 1 / 0
    assert hooks(model) == had


def test_every_pass_has_one_draw(tiny):
    model, shape = tiny
    drawn = []

    def draw():
        drawn.append(gate_values(Subnet.dense(shape), shape))
        return drawn[-1]

    with gated(model, shape, draw):
        for _ in range(3):
            logits(model, tiny_batch())
    assert len(drawn) == 3


def test_loss_reaches_every_gate(tiny):
    model, shape = tiny
    gates = GateSet(shape, GRANULARITIES, probability_open=0.95, temperature=2.0)
    with gated(model, shape, gates.sample):
        for seed in range(10):  # a sample at exactly 0 or 1 has no slope, and what it closes has none either
            model(**tiny_batch(seed)).logits.pow(2).sum().backward()
    for name, log_alpha in gates.log_alpha.items():
        assert log_alpha.grad.isfinite().all(), name
        assert (log_alpha.grad != 0).all(), name


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_slope_of_a_gate_is_that_of_finite_differences(tiny, granularity):
    model, shape = tiny
    model = model.double()
    batch = tiny_batch()
    values = {n: 0.2 + 0.6 * torch.rand(z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
              for n, z in vars(gate_values(Subnet.dense(shape), shape)).items()}  # fmt: skip
    gate = values[granularity].requires_grad_()
    place = tuple(size // 2 for size in gate.shape)

    def output():
        with gated(model, shape, lambda: type(gate_values(Subnet.dense(shape), shape))(**values)):
            return model(**batch).logits.sum()

    output().backward()
    step = 1e-3  # norms and softmax of some families compute in float32 whatever the model's type
    with torch.no_grad():
        gate[place] += step
        up = float(output())
        gate[place] -= 2 * step
        down = float(output())
    assert float(gate.grad[place]) == pytest.approx((up - down) / (2 * step), rel=1e-2, abs=2e-4)


@pytest.mark.parametrize("seed", range(4))
def test_what_a_mask_closes_has_no_influence(tiny, seed):
    """Weights of closed heads and blocks may be anything."""
    from metas_peft.backbones import Layout
    from metas_peft.backbones.adapters import rows_of

    model, shape = tiny
    subnet, batch = random_subnet(shape, seed), tiny_batch(seed)
    with masked(model, shape, subnet):
        expected = logits(model, batch)
    layout = Layout(model)
    with torch.no_grad():
        for layer, plan in zip(layout.layers, subnet.layers, strict=True):
            closed = [b for b in range(shape.ffn_blocks) if b not in plan.ffn_blocks or not plan.ffn]
            layout.base(layer, "up").weight[rows_of(torch.tensor(closed, dtype=torch.long), shape.block_size)] = 7.0
    with masked(model, shape, subnet):
        assert torch.equal(logits(model, batch), expected)
