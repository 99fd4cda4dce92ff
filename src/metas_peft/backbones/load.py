"""Getting a backbone and its tokeniser: a folder, the hub, or an installed package."""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from metas_peft.backbones.bytewise import byte_tokenizer
from metas_peft.backbones.catalogue import BACKBONES, BackboneEntry
from metas_peft.backbones.layout import Layout
from metas_peft.core.errors import BackboneUnavailableError, UnknownNameError, UnsupportedBackboneError
from metas_peft.core.hub import hub_is_reachable
from metas_peft.core.units import BYTES_PER_GB

logger = logging.getLogger(__name__)

BYTES_PER_WEIGHT = 4
_RANDOM = "model.weights=random runs the real architecture at random initialisation (speed and memory work)."
UNGATED_TWIN = "pucpr-br/Clinical-BR-LlaMA-2-7B"


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone ready to be adapted.

    Attributes:
        model: Sequence classifier or causal language model in float32, dropout off.
        tokenizer: Its tokeniser.
        name: Name for records and reports.
        source: Where the weights came from, for reports.
    """

    model: Any
    tokenizer: Any
    name: str
    source: str


def load_backbone(
    name: str, *, n_labels: int | None, weights: str = "pretrained", seed: int = 0, texts: Sequence[str] = ()
) -> LoadedBackbone:
    """Load a model by catalogue name, alias, hub id or local folder.

    Dropout is switched off: adapters of low rank are regularised by their rank, and a gate's gradient should not
    carry dropout's noise.

    Args:
        name: What the user wrote.
        n_labels: Number of classes of the new head; None for a causal language model with the head it has.
        weights: `pretrained`, or `random` for the real architecture at random initialisation.
        seed: Seed of everything that is initialised at random.
        texts: Texts from which a word tokeniser is made when weights are random and no tokeniser is at hand; a language
            model gets one of bytes, which can write anything.

    Raises:
        UnknownNameError: No folder, catalogue entry or hub id is spelled so.
        BackboneUnavailableError: The weights are neither here nor reachable, or do not fit.
        UnsupportedBackboneError: The family is not known, or has no language model.
    """
    location, source = locate_backbone(name, weights)
    head = _LANGUAGE_MODEL if n_labels is None else _Head(transformers.AutoModelForSequenceClassification, n_labels)
    missing: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if weights == "random":
            config = _config(name, location, head)
            config._attn_implementation = "eager"
            _check_memory(name, config, head)
            model = head.build(config)
            source = "random initialisation"
        else:
            try:
                model, loading = head.architecture.from_pretrained(
                    location or name, dtype=torch.float32, local_files_only=not hub_is_reachable(),
                    attn_implementation="eager",  # on CPU, the usual one is several times slower backwards
                    output_loading_info=True, **head.options,
                )  # fmt: skip
                missing = sorted(loading["missing_keys"])
            except (OSError, RuntimeError, SafetensorError, ValueError) as error:
                raise BackboneUnavailableError(
                    f"{name} cannot be loaded {head.purpose} ({str(error).splitlines()[0]}). It must be a transformers "
                    f"model with config.json and weights{head.demand}."
                ) from error
    layout = Layout(model)  # refuses an unknown family before anything is trained
    if n_labels is None and not layout.family.causal:
        raise UnsupportedBackboneError(_no_writer(name))
    if n_labels is None and missing:
        raise BackboneUnavailableError(
            f"{name} has no trained weights for {', '.join(missing[:3])}: it was not stored as a language model. Give "
            "one that was."
        )
    without_dropout(model)
    tokenizer = _tokenizer(location, head, texts, model.config.get_text_config().vocab_size)
    model, tokenizer = with_padding(model, tokenizer)
    label = BACKBONES.resolve(name) if name in BACKBONES else name
    return LoadedBackbone(model, tokenizer, label, source)


@dataclass(frozen=True)
class _Head:
    """What a backbone is loaded with.

    Attributes:
        architecture: The `transformers` class that picks a model class by its config.
        n_labels: Classes; None for a language model.
    """

    architecture: Any
    n_labels: int | None

    @property
    def options(self) -> dict[str, Any]:
        """Config values that belong to the head."""
        return {} if self.n_labels is None else {"num_labels": self.n_labels}

    @property
    def purpose(self) -> str:
        """What for, in a sentence."""
        return "as a language model" if self.n_labels is None else f"for {self.n_labels} classes"

    @property
    def demand(self) -> str:
        """What must fit besides, in a sentence."""
        return "" if self.n_labels is None else "; a stored task head must have as many classes"

    def build(self, config: Any) -> Any:
        """A model at random initialisation.

        Raises:
            UnsupportedBackboneError: `transformers` has no model with such a head for this config.
        """
        try:
            return self.architecture.from_config(config)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UnsupportedBackboneError(
                f"There is no {config.model_type} {self.purpose} ({reason}). Choose another model.name."
            ) from error


_LANGUAGE_MODEL = _Head(transformers.AutoModelForCausalLM, None)


def _no_writer(name: str) -> str:
    return (
        f"{name} is an encoder: it cannot write answers. Tasks of prompts and answers take a decoder, such as "
        "model.name=Llama-2-7B or model.name=tiny-decoder."
    )


def _check_memory(name: str, config: Any, head: _Head) -> None:
    """Refuse a model that this computer cannot hold, instead of being killed for it half-way."""
    with torch.device("meta"):
        skeleton = head.build(config)
    needed_gb = sum(p.numel() for p in skeleton.parameters()) * BYTES_PER_WEIGHT / BYTES_PER_GB
    free_gb = psutil.virtual_memory().available / BYTES_PER_GB
    if needed_gb > free_gb:
        raise BackboneUnavailableError(
            f"{name} takes {needed_gb:.1f} GB in float32, this computer has {free_gb:.1f} GB of memory free. "
            "Use a machine with more memory, or a smaller backbone such as model.name=minilm."
        )


def with_padding(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """A model and a tokeniser that agree on the token that fills up, in place.

    A decoder's head finds the end of a text by its padding. A tokeniser without such a token pads with the one that
    ends a text, or with any other special one: padding is masked, so that nothing but the head looks at it.

    Raises:
        UnsupportedBackboneError: The tokeniser has no special token at all.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or next(iter(tokenizer.all_special_tokens), None)
    if tokenizer.pad_token_id is None:
        raise UnsupportedBackboneError("The tokeniser has no padding token. Set tokenizer.pad_token to one it knows.")
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def without_dropout(model: Any) -> Any:
    """Switch a model's dropout off, in place, and return it."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        # Attention of the Llama kind keeps its rate as a plain number.
        for name, value in vars(module).items():
            if isinstance(value, float) and name.endswith("dropout"):
                setattr(module, name, 0.0)
    return model


def locate_backbone(name: str, weights: str) -> tuple[str | None, str]:
    """Folder or hub id to load from, and a description; None when random weights need neither.

    Raises:
        UnknownNameError: No folder, catalogue entry or hub id is spelled so.
        BackboneUnavailableError: The weights are neither here nor reachable.
    """
    if Path(name).is_dir():
        return name, f"folder {Path(name).name}"
    if name not in BACKBONES and "/" not in name:
        raise UnknownNameError(
            str(_unknown(name)) + " A folder with a transformers model or a hub id (owner/name) works too."
        )
    entry = BACKBONES[name] if name in BACKBONES else BackboneEntry(name)
    if not entry.hub_id:
        if weights == "random":
            return None, "random initialisation"
        raise BackboneUnavailableError(f"Nobody has trained {name}: it is there to try things out. {_RANDOM}")
    if _is_cached(entry.hub_id):
        return entry.hub_id, f"hub {entry.hub_id} (cached)"
    if hub_is_reachable() and not entry.gated:
        return entry.hub_id, f"hub {entry.hub_id}"
    if hub_is_reachable() and entry.gated and _may_download(entry.hub_id):
        return entry.hub_id, f"hub {entry.hub_id}"
    if entry.package is not None:
        spec = importlib.util.find_spec(entry.package)
        if spec is not None and spec.origin is not None:
            return str(Path(spec.origin).parent / "model"), f"Python package {entry.package_name}"
    if weights == "random" and entry.config:
        return None, "random initialisation"
    raise BackboneUnavailableError(_missing(name, entry))


def _unknown(name: str) -> UnknownNameError:
    try:
        BACKBONES.resolve(name)
    except UnknownNameError as error:
        return error
    raise AssertionError(f"{name} is known")


def _missing(name: str, entry: BackboneEntry) -> str:
    text = f"The weights of {name} ({entry.hub_id}) are not on this computer"
    text += " and the hub gives no access to them." if hub_is_reachable() else ", and the hub cannot be reached."
    if entry.gated:
        text += (
            f" They come from huggingface.co/{entry.hub_id}, where Meta's licence must be accepted first"
            f" (then: hf auth login). model.name={UNGATED_TWIN} is an ungated model of the same shape."
        )
    elif entry.package_name:
        text += f" Install the package {entry.package_name} (extra 'demo'), which ships them."
    else:
        text += " Connect to the hub once, or give model.name the path of a local folder."
    if entry.config:
        text += f" {_RANDOM}"
    return text


def _is_cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(hub_id, file), str)
               for file in ("model.safetensors", "model.safetensors.index.json"))  # fmt: skip


def _may_download(hub_id: str) -> bool:
    from huggingface_hub import auth_check
    from huggingface_hub.errors import HfHubHTTPError

    try:
        auth_check(hub_id)
    except (HfHubHTTPError, OSError):
        return False
    return True


def _config(name: str, location: str | None, head: _Head) -> Any:
    if location is not None:
        return transformers.AutoConfig.from_pretrained(
            location, local_files_only=not hub_is_reachable(), **head.options
        )
    return transformers.AutoConfig.for_model(**BACKBONES[name].config, **head.options)


def _tokenizer(location: str | None, head: _Head, texts: Sequence[str], vocabulary: int) -> Any:
    if location is not None:
        needed = "Put the model's tokenizer.json and tokenizer_config.json beside its weights."
        try:
            found = transformers.AutoTokenizer.from_pretrained(location, local_files_only=not hub_is_reachable())
        except (OSError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise BackboneUnavailableError(
                f"The tokeniser of {location} cannot be loaded ({reason}). {needed}"
            ) from error
        # Where there are no files, transformers makes one up of special tokens, to which every word is unknown.
        if len(found) <= len(found.all_special_tokens):
            raise BackboneUnavailableError(f"{location} has no vocabulary for its tokeniser. {needed}")
        return found
    if head.n_labels is None:
        logger.warning("No tokeniser is at hand for these random weights: texts are read and written byte by byte.")
        return byte_tokenizer()
    logger.warning("No tokeniser is at hand for these random weights: a word tokeniser is made from the training set.")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=special))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
