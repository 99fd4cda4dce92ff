"""Importances of heads and neurons, and the order made of them."""

import pytest
import torch
import torch.nn.functional as F

from metas_peft.backbones import Layout, reorder
from metas_peft.testing.tiny import tiny_adapted
from metas_peft.testing.tuning import tiny_texts
from metas_peft.tuning.data import Collator, EncodedTexts
from metas_peft.tuning.order import descending, importances

FAMILIES = ("bert", "llama")


def measured(network, shape, data, batches=1, batch_size=16, seed=0):
    return importances(network, shape, data, Collator(0), batches=batches, batch_size=batch_size, seed=seed)


@pytest.fixture(params=FAMILIES)
def tiny(request):
    adapted, shape = tiny_adapted(request.param)
    return adapted, adapted.get_base_model(), shape


def test_importance_of_a_neuron_is_the_slope_of_the_loss_in_its_output(tiny):
    """By finite differences of the weights behind it: scaling a column of the down map scales the neuron."""
    _, network, shape = tiny
    network = network.double()
    data = tiny_texts(8)
    heads, neurons = measured(network, shape, data, batch_size=8)
    batch = Collator(0)([data[i] for i in range(8)])

    def loss():
        with torch.no_grad():
            out = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            return float(F.cross_entropy(out, batch["labels"]))

    layout, step = Layout(network), 1e-3
    for layer, neuron in ((0, 3), (2, 40)):
        module = layout.projection(layout.layers[layer], "down")
        weights = [module.base_layer.weight, module.lora_A["default"].weight]
        values = []
        for factor in (1 + step, (1 - step) / (1 + step)):
            with torch.no_grad():
                for weight in weights:
                    weight[:, neuron] *= factor
            values.append(loss())
        with torch.no_grad():
            for weight in weights:
                weight[:, neuron] /= 1 - step
        slope = abs(values[0] - values[1]) / (2 * step)
        assert float(neurons[layer, neuron]) == pytest.approx(slope, rel=2e-2, abs=1e-6)


def test_importances_are_means_over_batches(tiny):
    _, network, shape = tiny
    texts = [list(range(3, 6 + n)) for n in range(32)]  # no two of one length: batches go by length
    labels = [n % 2 for n in range(32)]
    whole = measured(network, shape, EncodedTexts(texts, labels), batches=2)
    parts = [measured(network, shape, EncodedTexts(texts[half], labels[half])) for half in (slice(16), slice(16, 32))]
    for kind, size in ((0, shape.n_kv_heads), (1, shape.ffn_size)):
        assert whole[kind].shape == (3, size)
        assert torch.allclose(whole[kind], (parts[0][kind] + parts[1][kind]) / 2, atol=1e-6)


def test_measuring_importances_leaves_no_trace(tiny):
    adapted, network, shape = tiny
    before = {n: (p.clone(), p.requires_grad) for n, p in adapted.named_parameters()}
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in network.modules())
    measured(network, shape, tiny_texts(20), batches=2)
    assert sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in network.modules()) == hooks
    for name, parameter in adapted.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
        assert parameter.grad is None


def test_unit_without_influence_is_last(tiny):
    _, network, shape = tiny
    layout = Layout(network)
    module = layout.projection(layout.layers[1], "down")
    with torch.no_grad():
        module.base_layer.weight[:, 7] = 0.0
        module.lora_A["default"].weight[:, 7] = 0.0
    _, neurons = measured(network, shape, tiny_texts(32), batches=2)
    assert float(neurons[1, 7]) == 0.0
    assert int(descending(neurons)[1, -1]) == 7


def test_reordered_model_has_its_importances_in_descending_order(tiny):
    _, network, shape = tiny
    data = tiny_texts(32)
    heads, neurons = measured(network, shape, data, batches=2)
    reorder(network, shape, descending(heads), descending(neurons))
    for values in measured(network, shape, data, batches=2):
        assert (values.diff(dim=-1) <= 1e-6).all()


def test_order_follows_the_seed_and_ties_go_by_index():
    assert descending(torch.tensor([[1.0, 3.0, 1.0, 3.0]])).tolist() == [[1, 3, 0, 2]]
    adapted, shape = tiny_adapted("bert")
    data = tiny_texts(60)
    first = measured(adapted.get_base_model(), shape, data, seed=1)
    assert torch.equal(first[0], measured(adapted.get_base_model(), shape, data, seed=1)[0])
    assert not torch.equal(first[0], measured(adapted.get_base_model(), shape, data, seed=2)[0])
