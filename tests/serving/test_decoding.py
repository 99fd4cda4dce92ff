"""Decoding with changing members against a recomputation of everything, written out by hand.

The recomputation knows no cache, no views and no cutting: it multiplies the dense model's matrices for all tokens and
crosses out what each token's member has not.
"""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from metas_peft.backbones import compact
from metas_peft.control.runtime import distribution_entropy, token_entropy
from metas_peft.control.tree import LEAF, Controller, ControllerTree
from metas_peft.core.errors import SubnetError, UnsupportedBackboneError
from metas_peft.core.subnet import Subnet
from metas_peft.serving import AdaptiveModel, ServedFront, Switching
from metas_peft.testing.tiny import tiny_adapted

FAMILIES = ("llama", "mistral", "qwen3")
FILLABLE = ("llama", "mistral", "qwen3", "gemma3")
# Heads (KV groups) and FFN blocks per layer, the largest first; it has lost a sub-layer itself.
MEMBERS = {
    "large": ([2, 2, 2], [12, 0, 12]),
    "middle": ([1, 2, 0], [9, 0, 4]),
    "small": ([0, 1, 0], [3, 0, 0]),
    "other end": ([0, 0, 2], [0, 0, 7]),
}
# The largest without the attention of the first layer, and without the second layer.
WITHOUT_ATTENTION = {
    "large": ([0, 2, 2], [12, 12, 0]),
    "middle": ([0, 1, 2], [9, 0, 0]),
    "small": ([0, 0, 1], [3, 0, 0]),
    "other end": ([0, 2, 0], [0, 7, 0]),
}
WITHOUT_LAYER = {
    "large": ([2, 0, 2], [12, 0, 12]),
    "middle": ([1, 0, 0], [9, 0, 4]),
    "small": ([0, 0, 1], [3, 0, 0]),
    "other end": ([2, 0, 0], [0, 0, 7]),
}
FRONTS = {"without an FFN": MEMBERS, "without attention": WITHOUT_ATTENTION, "without a layer": WITHOUT_LAYER}
VOCABULARY, LENGTH = 97, 24
# Up to half of the length by entropy between two members, then by entropy between the others.
TREE = ControllerTree(
    (1, 0, LEAF, LEAF, 0, LEAF, LEAF), (0.5, 4.375, 0.0, 0.0, 4.375, 0.0, 0.0), (1, 2, LEAF, LEAF, 5, LEAF, LEAF),
    (4, 3, LEAF, LEAF, 6, LEAF, LEAF), (LEAF, LEAF, 1, 2, LEAF, 0, 3),
)  # fmt: skip


class Numbers:
    """Stands for a tokeniser."""

    def decode(self, ids, skip_special_tokens):
        return " ".join(map(str, ids))


def subnets(front="without an FFN"):
    return {name: Subnet.prefix(*counts) for name, counts in FRONTS[front].items()}


@functools.cache
def front_of(family, members="without an FFN"):
    """A served front, and the dense model with its adapter merged."""
    adapted, shape = tiny_adapted(family, language_model=True)
    model = adapted.get_base_model()
    dense = compact(model, shape, Subnet.dense(shape))
    return ServedFront((name, s, compact(model, shape, s)) for name, s in subnets(members).items()), dense, shape


def norm(x, weight, eps):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def rotate(x, positions, theta):
    """Rotary positions on (T, heads, E)."""
    size = x.shape[-1]
    angles = positions[:, None] * theta ** (-torch.arange(0, size, 2) / size)
    cos, sin = angles.cos().repeat(1, 2)[:, None], angles.sin().repeat(1, 2)[:, None]
    a, b = x[..., : size // 2], x[..., size // 2 :]
    return x * cos + torch.cat([-b, a], -1) * sin


@torch.no_grad()
def recomputed(dense, shape, ids, choices, largest):
    """Logits (T, V) of all tokens, the t-th of which passed the subnet `choices[t]`."""
    config, w = dense.config, dict(dense.named_parameters())
    theta, eps = config.rope_parameters["rope_theta"], config.rms_norm_eps
    count, positions = len(ids), torch.arange(len(ids))
    per_group, size = shape.queries_per_group, shape.head_size
    h = w["model.embed_tokens.weight"][torch.tensor(ids)]
    for i in range(shape.n_layers):
        plans = [choice.layers[i] for choice in choices]
        at = f"model.layers.{i}."

        def apply(x, name, at=at):
            return F.linear(x, w[f"{at}{name}.weight"], w.get(f"{at}{name}.bias"))

        if largest.layers[i].attention:
            x = norm(h, w[f"{at}input_layernorm.weight"], eps)
            q, k, v = (apply(x, f"self_attn.{n}_proj").view(count, -1, size) for n in "qkv")
            if f"{at}self_attn.q_norm.weight" in w:
                q = norm(q, w[f"{at}self_attn.q_norm.weight"], eps)
                k = norm(k, w[f"{at}self_attn.k_norm.weight"], eps)
            q, k = rotate(q, positions, theta), rotate(k, positions, theta)
            k, v = k.repeat_interleave(per_group, 1), v.repeat_interleave(per_group, 1)
            scores = torch.einsum("the,she->hts", q, k) / math.sqrt(size)
            distance = positions[:, None] - positions[None]
            is_seen = distance >= 0
            # Mistral names no kinds of layers: all of them slide.
            if (getattr(config, "layer_types", None) or ["sliding_attention"] * 9)[i] == "sliding_attention" and (
                getattr(config, "sliding_window", None)
            ):
                is_seen &= distance < config.sliding_window
            weights = scores.masked_fill(~is_seen, -torch.inf).softmax(-1)
            out = torch.einsum("hts,she->the", weights, v)
            for t, plan in enumerate(plans):
                out[t, len(plan.heads) * per_group :] = 0
            delta = apply(out.reshape(count, -1), "self_attn.o_proj")
            delta[[not plan.attention for plan in plans]] = 0
            h = h + delta
        x = norm(h, w[f"{at}post_attention_layernorm.weight"], eps)
        inner = F.silu(apply(x, "mlp.gate_proj")) * apply(x, "mlp.up_proj")
        for t, plan in enumerate(plans):
            inner[t, len(plan.ffn_blocks) * shape.block_size :] = 0
        delta = apply(inner, "mlp.down_proj")
        delta[[not plan.ffn for plan in plans]] = 0
        h = h + delta
    return F.linear(norm(h, w["model.norm.weight"], eps), w["lm_head.weight"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("members", "seed"), [*((name, seed) for name in FRONTS for seed in range(2)), ("without an FFN", 2)]
)
def test_decoding_with_changing_members_equals_recomputation_token_by_token(family, members, seed):
    front, dense, shape = front_of(family, members)
    switching, members = Switching(front, list(front)), list(front)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 97, (5,), generator=generator).tolist()
    first = members[int(torch.randint(4, (), generator=generator))]
    choices = [first] * len(ids)
    cache = switching.cache()
    logits = switching.step(torch.tensor([ids]), cache, first)
    for _ in range(12):
        expected = recomputed(dense, shape, ids, [m.subnet for m in choices], front.largest.subnet)[-1]
        assert torch.allclose(logits, expected, atol=1e-4, rtol=0), len(ids)
        assert int(logits.argmax()) == int(expected.argmax())
        ids.append(int(logits.argmax()))
        choices.append(members[int(torch.randint(4, (), generator=generator))])
        logits = switching.step(torch.tensor([ids[-1:]]), cache, choices[-1])
    assert len({m.name for m in choices}) == 4
    kept = sum(layer.is_kept for layer in front.largest.subnet.layers)
    assert [cache.get_seq_length(i) for i in range(kept)] == [len(ids)] * kept


@pytest.mark.parametrize("family", FAMILIES)
def test_streaming_equals_recomputing_everything_for_every_token(family):
    """Decisions and tokens come from the recomputation itself, which starts from nothing at each token."""
    front, dense, shape = front_of(family)
    controller = Controller(TREE, tuple(m.subnet for m in front), names=tuple(MEMBERS), max_length=LENGTH)
    information = [0.05 * i for i in range(VOCABULARY)]
    prompt = [70, 82, 79, 77, 80]
    ids, chosen = list(prompt), []
    choice = controller.decide(token_entropy(ids, information), len(ids) / LENGTH)
    choices = [choice] * len(ids)
    while len(ids) < len(prompt) + 16:
        passed = [controller.members[c] for c in choices]
        logits = recomputed(dense, shape, ids, passed, front.largest.subnet)[-1]
        chosen.append(choices[-1])
        ids.append(int(logits.argmax()))
        entropy = distribution_entropy(logits.softmax(-1).tolist())
        choices.append(controller.decide(entropy, (len(ids) - 1) / LENGTH))
    assert len(set(chosen)) >= 3
    model = AdaptiveModel(front, Numbers(), controller, information)
    tokens = list(model.stream(prompt, max_new_tokens=16))
    assert [t.token_id for t in tokens] == ids[len(prompt) :]
    assert [t.member for t in tokens] == [controller.names[c] for c in chosen]


@pytest.mark.parametrize("family", FILLABLE)
def test_one_member_throughout_equals_its_own_generation(family):
    front, _, _ = front_of(family)
    switching = Switching(front, list(front))
    prompt = torch.arange(3, 9)[None]
    for member in front:
        with torch.no_grad():
            expected = front.module(member.name).generate(prompt, max_new_tokens=9, do_sample=False)[0, 6:].tolist()
        cache, found, waiting = switching.cache(), [], prompt
        for _ in range(9):
            found.append(int(switching.step(waiting, cache, member).argmax()))
            waiting = torch.tensor([found[-1:]])
        assert found == expected, member.name


@pytest.mark.parametrize("family", FILLABLE)
def test_what_a_skipping_member_leaves_equals_what_the_layer_itself_would(family):
    """In the first layer every member sees the same hidden state, so that its keys and values must not differ."""
    front, _, _ = front_of(family)
    switching = Switching(front, list(front))
    left = []
    for member in front:
        cache = switching.cache()
        switching.step(torch.tensor([[4, 8, 15]]), cache, member)
        left.append(cache.layers[0])
    for layer in left[1:]:
        assert torch.allclose(layer.keys, left[0].keys, atol=1e-5)
        assert torch.allclose(layer.values, left[0].values, atol=1e-5)


def test_filling_is_counted_in_flops_of_the_missing_keys_and_values():
    front, _, shape = front_of("llama")
    switching = Switching(front, list(front))
    per_group = 2 * 2 * shape.hidden * shape.head_size  # two maps, a multiplication and an addition each
    missing = {"large": 0, "middle": 3, "small": 5, "other end": 4}
    assert {m.name: switching.fill_flops(m) for m in front} == {n: k * per_group for n, k in missing.items()}


def test_members_alone_fill_nothing_and_take_no_memory():
    front, _, _ = front_of("llama")
    switching = Switching(front, [front["small"]])
    assert switching.fill_flops(front["small"]) == 0
    assert len(switching.cache().layers) == 2
    places = {p.untyped_storage().data_ptr() for p in front.module("large").parameters()}
    whole = Switching(front, list(front))
    for view, _ in whole._views.values():
        assert {p.untyped_storage().data_ptr() for p in view.parameters()} <= places


def test_members_that_do_not_contain_each_other_are_refused():
    front, _, _ = front_of("llama")
    with pytest.raises(SubnetError, match="None of the members small, other end contains all others"):
        Switching(front, [front["small"], front["other end"]])


def test_members_with_weights_of_their_own_are_refused():
    adapted, shape = tiny_adapted("llama", language_model=True)
    model = adapted.get_base_model()
    models = {name: compact(model, shape, s) for name, s in subnets().items()}
    with torch.no_grad():
        models["small"].lm_head.weight.add_(1.0)
    front = ServedFront((name, subnets()[name], m) for name, m in models.items())
    with pytest.raises(UnsupportedBackboneError, match="small has weights of its own"):
        Switching(front, list(front))
    assert Switching(front, [front["small"]]).fill_flops(front["small"]) == 0


def test_members_whose_own_weights_differ_are_refused_though_the_largest_of_all_is_not_among_them():
    adapted, shape = tiny_adapted("llama", language_model=True)
    models = {name: compact(adapted.get_base_model(), shape, s) for name, s in subnets().items()}
    with torch.no_grad():
        for number, name in enumerate(("middle", "small"), start=1):
            models[name].model.norm.weight.mul_(1 + number)
    front = ServedFront((name, subnets()[name], m) for name, m in models.items())
    with pytest.raises(UnsupportedBackboneError, match="middle, small has weights of its own"):
        Switching(front, [front["middle"], front["small"]])


@pytest.mark.parametrize(("family", "language_model", "message"), [
    ("llama", False, "generates no text"), ("gpt2", True, "cannot take turns in one cache"),
    ("llama4", True, "not known how it rotates them"),
])  # fmt: skip
def test_models_that_cannot_take_turns_are_refused(served, family, language_model, message):
    front, _ = served(family, language_model)
    with pytest.raises(UnsupportedBackboneError, match=message):
        Switching(front, list(front))


def test_other_decoders_stream_with_one_member(served):
    front, cut = served("gpt2", True)
    model, prompt = AdaptiveModel(front, Numbers()), [3, 4, 5]
    for i, small in enumerate(cut):
        expected = small.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)[0, 3:].tolist()
        assert [t.token_id for t in model.stream(prompt, max_new_tokens=6, member=f"m{i}")] == expected
