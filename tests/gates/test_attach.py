"""Gates on a model: exact at 0 and 1, differentiable between, gone afterwards."""

import pytest
import torch

from metas_peft.backbones import Layout, compact
from metas_peft.backbones.cutting import text_configs
from metas_peft.backbones.load import without_dropout
from metas_peft.core.errors import UsageError
from metas_peft.core.subnet import Subnet
from metas_peft.gates import GRANULARITIES, GateSet, GateValues, attach, expected_subnet, gate_values, gated, masked
from metas_peft.testing.families import TINY_FAMILIES
from metas_peft.testing.tiny import TINY_CONFIGS, random_subnet, tiny_adapted, tiny_batch


@pytest.fixture(params=sorted(TINY_CONFIGS))
def tiny(request):
    adapted, shape = tiny_adapted(request.param)
    return adapted.get_base_model(), shape


@pytest.fixture(params=sorted(TINY_FAMILIES))
def every(request):
    adapted, shape = tiny_adapted(request.param)
    return without_dropout(adapted), shape


def slopes(model):
    """Gradients of a loss for everything that is trained."""
    model.zero_grad()
    model(**tiny_batch()).logits.pow(2).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_gated_leaves_no_trace(tiny):
    model, shape = tiny
    batch, before = tiny_batch(), {k: v.clone() for k, v in model.state_dict().items()}
    expected, names, had = logits(model, batch), [n for n, _ in model.named_modules()], hooks(model)
    with gated(model, shape, GateSet(shape, GRANULARITIES, start=0.5).sample):
        assert hooks(model) > had
        assert not torch.equal(logits(model, batch), expected)
    assert hooks(model) == had
    assert [n for n, _ in model.named_modules()] == names
    assert torch.equal(logits(model, batch), expected)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_model_is_not_cut_while_gates_are_on_it(every):
    adapted, shape = every
    model, gates = adapted.get_base_model(), GateSet(shape, GRANULARITIES)
    attached = attach(gates, adapted)
    with masked(adapted, shape, Subnet.dense(shape)):
        attached.detach()
        attached.detach()
        with pytest.raises(UsageError, match=r"has gates attached.*after the `with attach\(\.\.\.\)` block"):
            compact(model, shape, expected_subnet(gates))
    assert compact(model, shape, expected_subnet(gates)) is not model


def test_attached_gates_leave_no_trace(every):
    adapted, shape = every
    batch, before = tiny_batch(), {k: v.clone() for k, v in adapted.state_dict().items()}
    expected, had, kinds = logits(adapted, batch), hooks(adapted), [type(m) for m in adapted.modules()]
    adapted.train()
    attached = attach(GateSet(shape, GRANULARITIES, start=0.5), adapted)
    assert hooks(adapted) > had
    assert not torch.equal(logits(adapted, batch), expected)
    attached.detach()
    attached.detach()
    adapted.eval()
    assert hooks(adapted) == had
    assert [type(m) for m in adapted.modules()] == kinds
    assert torch.equal(logits(adapted, batch), expected)
    assert all(torch.equal(v, before[k]) for k, v in adapted.state_dict().items())
    assert list(adapted.state_dict()) == list(before)


@pytest.mark.parametrize("how", ["held open", "all ones"])
def test_open_gates_are_the_peft_model_bit_for_bit_in_logits_and_gradients(every, how):
    adapted, shape = every
    adapted.train()
    gates, batch = GateSet(shape, GRANULARITIES), tiny_batch()
    expected, into = logits(adapted, batch), slopes(adapted)
    assert len(into) > 5
    gates.are_held_open = how == "held open"
    open_gates = GateValues(**{n: torch.ones_like(z) for n, z in vars(gates.expectations()).items()})
    with attach(gates, adapted) if gates.are_held_open else gated(adapted, shape, lambda: open_gates):
        assert torch.equal(logits(adapted, batch), expected)
        found = slopes(adapted)
    assert list(found) == list(into)
    for name, slope in found.items():
        assert torch.equal(slope, into[name]), name


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


@pytest.mark.parametrize("granularity", [*GRANULARITIES, "all"])
def test_loss_reaches_every_gate(every, granularity):
    adapted, shape = every
    adapted.train()
    wanted = GRANULARITIES if granularity == "all" else (granularity,)
    gates = GateSet(shape, wanted, start=0.95, temperature=2.0)
    with attach(gates, adapted):
        for seed in range(12):  # a sample at exactly 0 or 1 has no slope, and what it closes has none either
            adapted(**tiny_batch(seed)).logits.pow(2).sum().backward()
    assert set(gates.log_alpha) == set(wanted)
    for name, log_alpha in gates.log_alpha.items():
        assert log_alpha.grad.isfinite().all(), name
        assert (log_alpha.grad != 0).all(), name


@pytest.mark.parametrize("granularity", ["layer", "attention", "ffn"])
def test_pass_in_which_all_happen_to_be_open_reaches_the_gates_too(tiny, granularity):
    model, shape = tiny
    gates = GateSet(shape, (granularity,), start=0.999)
    model.train()
    with attach(gates, model):
        for seed in range(20):
            gates.zero_grad()
            model(**tiny_batch(seed)).logits.pow(2).sum().backward()
            assert gates.log_alpha[granularity].grad is not None, seed


@pytest.mark.parametrize("granularity", ["attention", "ffn"])
def test_presence_of_a_sub_layer_is_felt_in_every_family(every, granularity):
    """A norm behind the sub-layer must not undo what multiplies it."""
    adapted, shape = every
    model, values = adapted.get_base_model(), vars(gate_values(Subnet.dense(shape), shape))
    with torch.no_grad():
        whole, mild = logits(model, tiny_batch()), dict(values)
        mild[granularity] = 0.5 * values[granularity]
        with gated(model, shape, lambda: GateValues(**mild)):
            halved = logits(model, tiny_batch())
    assert (halved - whole).abs().max() > 1e-3 * whole.abs().max()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_slope_of_a_gate_is_that_of_finite_differences(every, granularity):
    adapted, shape = every
    model = adapted.get_base_model().double()
    for config in text_configs(model):
        config._experts_implementation = "eager"  # the grouped product of experts knows no float64
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


# ---- passes that are computed again


def checkpointed(model):
    model.activation_checkpointing_enable({"use_reentrant": False})
    return model


def into_everything(adapted, gates, seeds):
    """Gradients of adapters and gates when several passes come before one backward pass."""
    adapted.zero_grad()
    gates.zero_grad()
    with attach(gates, adapted):
        sum(adapted(**tiny_batch(seed)).logits.pow(2).sum() for seed in seeds).backward()
    trained = {**dict(adapted.named_parameters()), **{f"gate {n}": a for n, a in gates.log_alpha.items()}}
    return {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["one pass", "three passes"])
def test_checkpointing_changes_no_gradient(every, seeds):
    adapted, shape = every
    adapted.train()
    adapted.get_base_model().config.use_cache = False
    settings = {"start": 0.8, "temperature": 2.0, "seed": 3}
    expected = into_everything(adapted, GateSet(shape, GRANULARITIES, **settings), seeds)
    checkpointed(adapted.get_base_model())
    computed_again = []
    layer = Layout(adapted.get_base_model()).layers[1]
    handle = next(layer.children()).register_forward_pre_hook(lambda *_: computed_again.append(1))
    found = into_everything(adapted, GateSet(shape, GRANULARITIES, **settings), seeds)
    handle.remove()
    assert len(computed_again) == 2 * len(seeds)
    assert list(found) == list(expected)
    assert sum(name.startswith("gate") for name in found) == 6
    for name, slope in found.items():
        assert torch.allclose(slope, expected[name], rtol=1e-4, atol=1e-6), name


def test_recomputation_from_copies_is_refused_where_it_could_be_of_another_pass():
    adapted, shape = tiny_adapted("bert")
    without_dropout(adapted).train()
    settings = {"start": 0.8, "temperature": 2.0, "seed": 3}
    expected = into_everything(adapted, GateSet(shape, GRANULARITIES, **settings), (0,))
    model = checkpointed(adapted.get_base_model())
    for layer in Layout(model).layers:  # as a wrapper does that casts what its module is given
        for part in layer.children():
            part.register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:]))
    found = into_everything(adapted, GateSet(shape, GRANULARITIES, **settings), (0,))
    for name, slope in found.items():
        assert torch.allclose(slope, expected[name], rtol=1e-4, atol=1e-6), name
    gates = GateSet(shape, GRANULARITIES, **settings)
    with pytest.raises(UsageError, match="Layer 2 is computed again from a copy .* the gates of 3 passes cannot be"):
        into_everything(adapted, gates, (0, 1, 2))
    with attach(gates, adapted):
        for seed in range(3):
            with torch.no_grad():
                adapted(**tiny_batch(seed))  # nothing goes back through it
            adapted(**tiny_batch(seed)).logits.pow(2).sum().backward()


def test_bfloat16_gradients_of_gates_are_those_of_float32(every):
    adapted, shape = every
    adapted.train()
    settings = {"start": 0.8, "temperature": 2.0, "seed": 3}
    expected = into_everything(adapted, GateSet(shape, GRANULARITIES, **settings), range(4))
    with torch.autocast("cpu", torch.bfloat16):
        found = into_everything(adapted, GateSet(shape, GRANULARITIES, **settings), range(4))
    names = [name for name in expected if name.startswith("gate")]
    assert len(names) == 6
    exact, rounded = (torch.cat([g[name].flatten() for name in names]) for g in (expected, found))
    assert torch.cosine_similarity(rounded, exact, 0) > 0.97
    assert rounded.norm() == pytest.approx(float(exact.norm()), rel=0.1)
