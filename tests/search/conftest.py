"""Studies with an objective that costs nothing."""

import math

import pytest

from metas_peft.conf.compose import load
from metas_peft.conf.runfile import RunFile
from metas_peft.search import open_search

SPACE = {
    "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1},
    "r": {"type": "int", "low": 2, "high": 16},
    "batch_size": {"type": "categorical", "choices": [8, 16, 32]},
}


def figures(config, folder=None):
    """Best at a learning rate of 1e-3; rank costs energy, the batch does nothing."""
    miss = abs(math.log10(config.training.learning_rate) + 3)
    return {"hypervolume": 1 - miss / 4, "quality": 1 - miss / 4, "energy_j": float(config.model.peft.r), "flops": None}


@pytest.fixture
def configure(tmp_path):
    """Overrides and settings of the `optuna` block -> configuration of a search in a folder of its own."""

    def compose(*overrides, run_id="study", space=SPACE, **settings):
        data = {"optuna": {"n_trials": 6, "search_space": space, **settings}}
        return load(RunFile(run_id, data), [f"run_id={run_id}", f"output_dir={tmp_path}", *overrides])

    return compose


@pytest.fixture
def search(configure):
    """As `configure`, opened."""
    return lambda *overrides, **settings: open_search(configure(*overrides, **settings))
