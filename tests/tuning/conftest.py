"""One tuned front per method, made once in a session."""

import functools
import gc

import pytest
import torch
import transformers

from metas_peft.testing.tuning import tiny_context
from metas_peft.tuning.methods import METHODS


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_single_threaded():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    gc.freeze()  # every training ends with a collection, which need not look at all imported libraries


class Tuned:
    """A method run on a tiny model; the context is as the method left it."""

    def __init__(self, family, method, front, seed, **settings):
        settings = {"path_steps": 12, "gate_steps": 12, "joint_steps": 2, **settings}
        kind = METHODS[method]
        self.context = tiny_context(family, trains_all=kind.trains == "everything", seed=seed, **settings)
        self.untouched = {n: p.clone() for n, p in self.context.adapted.named_parameters() if not p.requires_grad}
        self.context.train_dense()
        self.front = kind(front=front).tune(self.context)


@pytest.fixture(scope="session")
def tuned():
    """(family, method, front, seed) -> `Tuned`; the same ones are run once."""
    return functools.cache(Tuned)
