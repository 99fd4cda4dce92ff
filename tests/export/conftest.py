"""Finished runs in miniature, made once: the code under test must leave them as they are."""

import functools

import pytest
import torch
import transformers

from metas_peft.testing.front import save_tiny_front


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_single_threaded():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def front(tmp_path_factory):
    """Family -> folder of a finished run."""
    return functools.cache(lambda family="bert": save_tiny_front(tmp_path_factory.mktemp("run"), family))
