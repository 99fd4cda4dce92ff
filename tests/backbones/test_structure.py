"""Models of families without a table: located where nothing is left to guess, refused with a reason elsewhere."""

import pytest
import torch
import transformers

from metas_peft.backbones import Layout, compact, shape_of
from metas_peft.core.errors import UnsupportedBackboneError
from metas_peft.gates import masked
from metas_peft.testing.tiny import random_subnet, tiny_batch, tiny_model

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "num_labels": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
LOCATED = {
    "OlmoForCausalLM": ("OlmoConfig", {}),
    "GraniteForCausalLM": ("GraniteConfig", {"residual_multiplier": 0.3}),
    "Gemma2ForCausalLM": ("Gemma2Config", {"head_dim": 6, "sliding_window": 5}),
    "ElectraForSequenceClassification": ("ElectraConfig", {"embedding_size": 32}),
    "CamembertForSequenceClassification": ("CamembertConfig", {}),
}
REFUSED = {
    "Olmo2ForCausalLM": ("Olmo2Config", {}, "no table finds its layers"),
    "PhiForCausalLM": ("PhiConfig", {}, "no table finds its layers"),
    "MixtralForCausalLM": ("MixtralConfig", {}, "no table finds its layers"),
    # Its pass takes the number of heads from an attribute that no table knows of.
    "StableLmForCausalLM": ("StableLmConfig", {}, "cutting it fails"),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", {}, "no table finds its layers"),
}


def build(architecture, config, changes):
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)(**{**SIZES, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("architecture", LOCATED)
def test_unknown_family_is_located_and_cut_when_its_structure_is_known(architecture):
    model = build(architecture, *LOCATED[architecture])
    shape = shape_of(model)
    assert shape.family == model.config.model_type
    # Helium's, SmolLM3's and OLMo's modules are those of Llama; their keys are not.
    assert not Layout(model).family.fills_cache
    n_changed = 0
    for seed in range(6):
        subnet, batch = random_subnet(shape, seed), tiny_batch(seed)
        with torch.no_grad():
            with masked(model, shape, subnet):
                expected = model(**batch).logits
            assert torch.allclose(compact(model, shape, subnet)(**batch).logits, expected, atol=1e-4, rtol=0)
            n_changed += not torch.allclose(model(**batch).logits, expected, atol=1e-4)
    assert n_changed >= 5


@pytest.mark.parametrize("architecture", REFUSED)
def test_unknown_family_is_refused_with_what_to_add(architecture):
    config, changes, why = REFUSED[architecture]
    model = build(architecture, config, changes)
    with pytest.raises(UnsupportedBackboneError, match=why) as caught:
        Layout(model)
    assert "registers a Family" in str(caught.value)


def test_layout_finds_the_text_model_of_a_multimodal_one():
    text = {k: v for k, v in SIZES.items() if k != "num_labels"}
    config = transformers.Gemma3Config(
        text_config={**text, "head_dim": 8},
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": 14, "patch_size": 7},
    )  # fmt: skip
    model = transformers.Gemma3ForConditionalGeneration(config)
    layout = Layout(model)
    assert layout.stack_path == "model.language_model.layers"
    assert len(layout.layers) == 3


def test_deberta_with_a_convolution_is_refused():
    model = tiny_model("deberta", conv_kernel_size=3, conv_act="gelu")
    with pytest.raises(UnsupportedBackboneError, match="convolution after its first layer"):
        Layout(model)


def test_encoder_used_as_a_decoder_is_refused():
    with pytest.raises(UnsupportedBackboneError, match="set up as a decoder"):
        Layout(tiny_model("bert", is_decoder=True))


def test_unknown_family_with_weights_that_no_table_places_is_refused():
    model = build("OlmoForCausalLM", "OlmoConfig", {})
    for layer in model.model.layers:
        layer.self_attn.q_norm = torch.nn.LayerNorm(32)  # over all heads at once: would have to be cut with them
    with pytest.raises(UnsupportedBackboneError, match=r"what to do with self_attn\.q_norm\.bias"):
        Layout(model)
