"""Every registered method on tiny models: valid members, the base untouched, the same numbers again."""

import math

import peft
import pytest
import torch

from metas_peft.backbones import NestedModel
from metas_peft.backbones.adapters import inverse, reorder
from metas_peft.core.cost import Cost
from metas_peft.core.errors import CalibrationError, SubnetError
from metas_peft.core.subnet import Subnet
from metas_peft.costs import Counts, paper_cost
from metas_peft.testing.tiny import tiny_batch, tiny_model
from metas_peft.testing.tuning import TINY_WORKLOAD, tiny_context
from metas_peft.tuning.methods import METHODS
from metas_peft.tuning.methods.fixed import PACE_APART, PACE_TOGETHER, cost_of_ours, train_apart, train_together
from metas_peft.tuning.pricing import flops_fraction

POINTS = (0.8, 0.5, 0.3)
CASES = [
    ("bert", "MetaS-PEFT", "nested"),
    ("bert", "MetaS-PEFT", "gates"),
    ("bert", "EChorda", "nested"),
    ("bert", "DiGASE", "nested"),
    ("bert", "DiGASE", "gates"),
    ("bert", "static-lora", "nested"),
    ("bert", "baseline", "nested"),
    ("bert", "AdaLoRA", "nested"),
    ("llama", "AdaLoRA", "nested"),
    ("bert", "drop-top", "nested"),
    ("bert", "uniform-width", "nested"),
    ("bert", "drop-alternate", "nested"),
    ("bert", "MetaS-PEFT-apart", "nested"),
    ("bert", "MetaS-PEFT-as-described", "nested"),
    ("bert", "EChorda-as-described", "nested"),
    ("llama", "DiGASE-as-described", "nested"),
    ("bert", "drop-top-as-described", "nested"),
    ("bert", "drop-alternate-as-described", "nested"),
    ("roberta", "MetaS-PEFT", "nested"),
    ("llama", "MetaS-PEFT", "nested"),
    ("llama", "MetaS-PEFT", "gates"),
    ("llama", "DiGASE", "nested"),
]
PRICED = ("MetaS-PEFT", "EChorda", "DiGASE")


@pytest.fixture(params=CASES, ids="-".join)
def case(request, tuned):
    family, method, front = request.param
    return family, method, tuned(family, method, front, 0)


def logits(model):
    with torch.no_grad():
        return model(**tiny_batch()).logits


def test_every_registered_method_is_among_the_cases():
    assert {method for _, method, _ in CASES} == set(METHODS)
    assert len(METHODS) == 15


def test_members_are_valid_and_ordered(case):
    _, method, tuned = case
    members, context = tuned.front.members, tuned.context
    counts = {"static-lora": 1, "AdaLoRA": 1, "baseline": 1, "drop-top": 2, "drop-alternate": 2, "DiGASE": 2}
    wanted = 3 if method == "DiGASE" else counts.get(method.removesuffix("-as-described"), 3)
    assert len(members) == wanted
    sizes = [flops_fraction(m.subnet, context.shape, TINY_WORKLOAD) for m in members]
    assert sizes == sorted(sizes, reverse=True)
    assert len({m.subnet.key for m in members}) == len({m.name for m in members}) == len(members)
    for member in members:
        assert member.gap < 1e-4
        assert logits(member.model).isfinite().all()
        counted = paper_cost(context.shape, Counts.of(member.subnet, context.shape), TINY_WORKLOAD)
        assert sum(p.numel() for p in member.model.parameters()) * 4 == counted.weight_bytes


def test_members_of_a_priced_method_are_within_their_operating_points(case):
    _, method, tuned = case
    if method not in PRICED:
        pytest.skip("has no operating points")
    for member, point in zip(tuned.front.members, POINTS, strict=True):
        assert flops_fraction(member.subnet, tuned.context.shape, TINY_WORKLOAD) <= point
        assert member.name == f"{100 * point:.0f} %"


def test_members_of_a_priced_method_are_nested(case):
    _, method, tuned = case
    if method not in PRICED:
        pytest.skip("has no nested members")
    subnets = [m.subnet for m in tuned.front.members]
    for outer, inner in zip(subnets, subnets[1:], strict=False):
        for a, b in zip(outer.layers, inner.layers, strict=True):
            assert set(b.heads) <= set(a.heads)
            assert set(b.ffn_blocks) <= set(a.ffn_blocks)


def test_frozen_weights_are_those_of_the_backbone(case):
    """Up to the order of heads and neurons, which is undone here."""
    _, method, tuned = case
    context = tuned.context
    if method == "baseline":
        assert not tuned.untouched
        return
    assert len(tuned.untouched) > 10
    reorder(context.network, context.shape, inverse(context._head_order), inverse(context._neuron_order))
    try:
        present = dict(context.adapted.named_parameters())
        for name, value in tuned.untouched.items():
            assert torch.equal(present[name], value), name
    finally:
        reorder(context.network, context.shape, context._head_order, context._neuron_order)


def test_reset_restores_logits_and_weights_bit_for_bit(case):
    _, _, tuned = case
    context = tuned.context
    after = {n: p.clone() for n, p in context.adapted.named_parameters()}
    order = context._head_order.clone(), context._neuron_order.clone()
    context.reset()
    start, dense = {n: p.clone() for n, p in context.adapted.named_parameters()}, logits(context.network)
    assert torch.allclose(dense, context.network(**tiny_batch()).logits)
    # Shuffle everything that a method may change, and come back.
    context.reorder(torch.stack([torch.randperm(context.shape.n_kv_heads) for _ in range(3)]),
                    torch.stack([torch.randperm(context.shape.ffn_size) for _ in range(3)]))  # fmt: skip
    with torch.no_grad():
        for parameter in context.adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    context.reset()
    assert torch.equal(logits(context.network), dense)
    assert all(torch.equal(p, start[n]) for n, p in context.adapted.named_parameters())
    # Leave the context as the method left it, for the other tests.
    reorder_to(context, order)
    with torch.no_grad():
        for name, parameter in context.adapted.named_parameters():
            parameter.copy_(after[name])


def reorder_to(context, order):
    """Bring heads and neurons into a recorded order."""
    for present, wanted, is_head in ((context._head_order, order[0], True), (context._neuron_order, order[1], False)):
        relative = torch.gather(torch.argsort(present, -1), -1, wanted)
        same = torch.arange(context._neuron_order.shape[1] if is_head else context._head_order.shape[1]).repeat(3, 1)
        context.reorder(*((relative, same) if is_head else (same, relative)))


def test_dense_model_after_reset_answers_as_the_teacher(case):
    _, _, tuned = case
    context = tuned.context
    context.reset()
    batch = context.collator([context.data[i] for i in range(12)])
    with torch.no_grad():
        out = context.network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.allclose(out, context.teacher.logits[:12], atol=1e-5)


@pytest.mark.parametrize("case_", [("bert", "MetaS-PEFT", "nested"), ("llama", "MetaS-PEFT", "gates"),
                                   ("bert", "drop-top", "nested")], ids="-".join)  # fmt: skip
def test_same_seed_gives_the_same_bits(case_, tuned):
    first = tuned(*case_, 0)
    torch.manual_seed(123)
    again = type(first)(*case_, 0)
    assert [m.subnet for m in first.front.members] == [m.subnet for m in again.front.members]
    for a, b in zip(first.front.members, again.front.members, strict=True):
        mine, theirs = a.model.state_dict(), b.model.state_dict()
        assert all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert all(torch.equal(first.front.gates[n], again.front.gates[n]) for n in first.front.gates)


def test_members_that_were_trained_differ_from_the_dense_model_cut(tuned):
    """Joint training reached the weights that members share."""
    context = tuned("bert", "MetaS-PEFT", "nested", 0).context
    small = tuned("bert", "MetaS-PEFT", "nested", 0).front.members[-1]
    context.reset()
    untrained = context.cut("untrained", small.subnet).model
    mine, theirs = small.model.state_dict(), untrained.state_dict()
    assert list(mine) == list(theirs)
    assert any(not torch.equal(mine[n], theirs[n]) for n in mine)


def test_metas_peft_without_a_cost_model_says_what_is_missing():
    context = tiny_context("bert")
    context.cost_model = None
    with pytest.raises(CalibrationError, match="calibrated surrogate"):
        METHODS["MetaS-PEFT"]().tune(context)


def test_metas_peft_calls_no_device():
    """Only a method that fits a model of its own may ask for measurements."""
    context = tiny_context("bert", path_steps=2, joint_steps=1)

    def refuse(subnets):
        raise AssertionError("measured while training")

    context.fit_on_target = refuse
    for method in ("MetaS-PEFT", "DiGASE", "static-lora"):
        METHODS[method]().tune(context)


@pytest.mark.parametrize("samples", [5, 20])
def test_echorda_measures_as_many_distinct_subnets_as_it_is_given(samples):
    context = tiny_context("bert", path_steps=2, joint_steps=0, target_samples=samples)
    model, asked = context.cost_model, []
    context.fit_on_target = lambda subnets: (asked.extend(subnets), model)[1]
    METHODS["EChorda"]().tune(context)
    assert len(asked) == len({s.key for s in asked}) == samples
    sizes = [flops_fraction(s, context.shape, TINY_WORKLOAD) for s in asked]
    assert max(sizes) - min(sizes) > 0.3


def test_echorda_asking_for_more_subnets_than_there_are_is_refused():
    context = tiny_context("bert", target_samples=70, sizes={"num_hidden_layers": 1, "intermediate_size": 12})
    with pytest.raises(SubnetError, match="different sub-networks, 70 were asked for"):
        METHODS["EChorda"]().tune(context)


def test_echorda_looks_at_energy_alone():
    context = tiny_context("bert")
    context.weights = Cost(2.0, 5.0, 7.0)
    price = METHODS["EChorda"]().price(context)
    assert price.weights == Cost(2.0, 0.0, 0.0)


def test_digase_counts_operations_alone():
    context = tiny_context("bert")
    price = METHODS["DiGASE"]().price(context)
    subnet = Subnet.prefix([2, 0, 1], [3, 12, 0])
    counts = Counts.of(subnet, context.shape)
    assert float(price(counts)) == pytest.approx(flops_fraction(subnet, context.shape, TINY_WORKLOAD), rel=1e-12)


@pytest.mark.parametrize(("method", "kept"), [("drop-top", [(0, 1), (0,)]), ("drop-alternate", [(0, 1), (0,)])])
def test_dropped_layers_are_whole(tuned, method, kept):
    found = [
        tuple(i for i, p in enumerate(m.subnet.layers) if p.is_kept)
        for m in tuned("bert", method, "nested", 0).front.members
    ]
    assert found == kept


@pytest.mark.parametrize(
    ("count", "kept"), [(6, (0, 1, 2, 3, 4, 5)), (4, (0, 1, 3, 4)), (3, (0, 2, 4)), (2, (0, 3)), (1, (0,))]
)
def test_alternate_layers_are_spread_over_the_depth(count, kept):
    assert METHODS["drop-alternate"]().kept(6, count) == kept


def test_points_that_drop_no_layer_leave_the_dense_model():
    context = tiny_context("bert", operating_points=(1.0,))
    front = METHODS["drop-top"]().tune(context)
    assert [m.subnet for m in front.members] == [Subnet.dense(context.shape)]
    assert "No operating point leaves anything out" in front.notes[0]


def test_our_stages_cost_what_their_passes_do():
    points = (0.8, 0.5, 0.26)
    context = tiny_context(
        "bert", path_steps=240, joint_steps=300, gate_steps=200, operating_points=points, batch_size=32
    )
    # By hand: 40 batches of the whole model and 200 at a mean of 0.26 + 0.74 / 2.5, each a quarter of a step's, which
    # take 1.81 times as long; 300 steps of two passes at 0.8 + 0.26 together.
    path = 1.81 * (40 + 200 * (0.26 + 0.74 / 2.5)) / 4
    assert cost_of_ours(context, "nested") == pytest.approx(path + 300 * 1.06)
    assert cost_of_ours(context, "gates") == pytest.approx(200 + 300 * 1.06)


def test_adalora_leaves_as_many_ranks_as_static_lora_has(tuned):
    """PEFT's allocation ends at its target, whichever modules the ranks are in."""
    run = tuned("bert", "AdaLoRA", "nested", 0)
    shape = run.context.shape
    modules, rank = shape.n_layers * len(shape.sites), shape.sites[0].rank
    assert run.front.notes == [f"{modules * rank} of {modules * math.ceil(1.5 * rank)} ranks are left."]
    assert not torch.equal(
        logits(run.front.members[0].model), logits(tuned("bert", "static-lora", "nested", 0).front.members[0].model)
    )


@pytest.mark.parametrize("train", [train_together, train_apart])
def test_rivals_with_a_rule_take_as_long_as_ours(train, monkeypatch):
    """By the passes that were made, each as large as the subnet that was active, and how fast such passes are."""
    context = tiny_context("bert", path_steps=40, joint_steps=30, operating_points=(0.8, 0.5, 0.3))
    members = METHODS["uniform-width"]().members(context)
    assert len(members) == 3
    ran, activate = [], NestedModel.activate

    def counting(view, subnet):
        ran.append(flops_fraction(subnet, context.shape, TINY_WORKLOAD))
        activate(view, subnet)

    monkeypatch.setattr(NestedModel, "activate", counting)
    cost = cost_of_ours(context, "nested")
    assert len(train(context, members, cost).members) == 3
    pace = PACE_TOGETHER if train is train_together else PACE_APART
    assert sum(ran) == pytest.approx(pace * cost, rel=0.1)


def test_uniform_width_keeps_the_same_in_every_layer_and_fills_its_point():
    context = tiny_context("bert", operating_points=(0.7, 0.4))
    members = METHODS["uniform-width"]().members(context)
    assert list(members) == ["70 %", "40 %"]
    for point, subnet in zip((0.7, 0.4), members.values(), strict=True):
        heads, blocks = ({len(getattr(p, kind)) for p in subnet.layers} for kind in ("heads", "ffn_blocks"))
        assert len(heads) == len(blocks) == 1
        size = flops_fraction(subnet, context.shape, TINY_WORKLOAD)
        one_wider = Subnet.prefix([min(heads) + 1] * context.shape.n_layers, [min(blocks) + 1] * context.shape.n_layers)
        assert size <= point < flops_fraction(one_wider, context.shape, TINY_WORKLOAD)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_saved_adapter_gives_the_trained_model_in_plain_peft(family, tuned, tmp_path):
    """On the backbone as published, in its own order of heads and neurons."""
    context = tuned(family, "MetaS-PEFT", "nested", 0).context
    before = {n: p.clone() for n, p in context.adapted.named_parameters()}
    context.save_adapter(tmp_path / "adapter")
    assert all(torch.equal(p, before[n]) for n, p in context.adapted.named_parameters())
    published = tiny_model(family, 0)
    plain = peft.PeftModel.from_pretrained(published, tmp_path / "adapter").eval()
    expected = logits(context.network)
    assert torch.allclose(logits(plain), expected, atol=1e-5)
    assert not torch.allclose(logits(tiny_model(family, 0)), expected, atol=1e-2)
    names = {p.name for p in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names


def test_gates_that_cannot_move_are_admitted(caplog):
    context = tiny_context("bert", gate_steps=1, joint_steps=0)
    context.train_dense()
    front = METHODS["DiGASE"](front="gates").tune(context)
    assert any("did not move" in note for note in front.notes)
    assert "did not move" in caplog.text


def test_gates_move_when_they_are_trained(tuned):
    front = tuned("bert", "MetaS-PEFT", "gates", 0).front
    assert not front.notes
    assert {"log_alpha.layer", "log_alpha.head", "log_alpha.ffn_block"} == set(front.gates)
    assert all(float(a.std()) > 0 for a in front.gates.values())


@pytest.mark.parametrize(("granularities", "smallest"), [(("head",), 0.37), (("rank",), 0.99), (("layer",), 0.33)])
def test_member_above_its_operating_point_is_named_after_its_size(granularities, smallest, caplog):
    context = tiny_context("bert", gate_steps=6, joint_steps=0, granularities=granularities)
    context.train_dense()
    front = METHODS["DiGASE"](front="gates").tune(context)
    last = front.members[-1]
    size = flops_fraction(last.subnet, context.shape, TINY_WORKLOAD)
    assert smallest < size < smallest + 0.02
    assert last.name == f"{100 * size:.3g} %"
    assert any("No subnet on the path is as small as" in note for note in front.notes)
    for member in front.members[:-1]:
        assert flops_fraction(member.subnet, context.shape, TINY_WORKLOAD) <= float(member.name[:-2]) / 100


def test_nested_front_keeps_the_importances_it_went_by(tuned):
    gates = tuned("bert", "MetaS-PEFT", "nested", 0).front.gates
    assert {n: tuple(t.shape) for n, t in gates.items()} == {"importance.head": (3, 4), "importance.ffn_block": (3, 12)}
    assert all((t >= 0).all() and t.sum() > 0 for t in gates.values())
