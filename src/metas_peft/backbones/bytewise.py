"""A tokeniser of bytes: for language models at random initialisation, whose own tokeniser is not at hand.

It needs no files and no texts, reads and writes everything, and fits every vocabulary of at least 259.
"""

from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

PAD, START, END = "<pad>", "<s>", "</s>"


def byte_tokenizer() -> Any:
    """A `transformers` tokeniser: 256 bytes, then padding (256), start (257) and end of a text (258)."""
    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, START, END])
    start = (START, tokenizer.token_to_id(START))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[start])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, eos_token=END
    )
