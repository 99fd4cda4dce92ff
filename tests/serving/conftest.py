"""Nested fronts of tiny models of every family, cut but not yet shared."""

import functools

import numpy as np
import pytest
import torch
import transformers

from metas_peft.backbones import compact
from metas_peft.core.subnet import Subnet
from metas_peft.serving import ServedFront
from metas_peft.testing.tiny import tiny_adapted


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_single_threaded():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def nested_subnets(shape, count, seed):
    """Prefixes of one another, the whole model first; whole sub-layers go too."""
    rng = np.random.default_rng(seed)
    heads, blocks = [shape.n_kv_heads] * shape.n_layers, [shape.ffn_blocks] * shape.n_layers
    found = [Subnet.prefix(heads, blocks)]
    while len(found) < count:
        fewer = [int(rng.integers(max(0, n - 2), n + 1)) for n in heads]
        less = [int(rng.integers(max(0, n - 5), n + 1)) for n in blocks]
        if any(fewer) and (fewer, less) != (heads, blocks):
            heads, blocks = fewer, less
            found.append(Subnet.prefix(heads, blocks))
    return found


@pytest.fixture(scope="session")
def cut_front():
    """Gives the network, its subnets (largest first) and the compact model of each."""

    def make(family, language_model=False, count=4, seed=0):
        adapted, shape = tiny_adapted(family, language_model=language_model)
        model = adapted.get_base_model()
        subnets = nested_subnets(shape, count, seed)
        return model, subnets, [compact(model, shape, s) for s in subnets]

    return make


@pytest.fixture(scope="session")
def served(cut_front):
    """Gives a served front of a family and the separately cut models, made once."""

    @functools.cache
    def make(family, language_model=False, count=4, seed=0):
        model, subnets, cut = cut_front(family, language_model, count, seed)
        again = cut_front(family, language_model, count, seed)[2]
        return ServedFront((f"m{i}", s, m) for i, (s, m) in enumerate(zip(subnets, again, strict=True))), cut

    return make
