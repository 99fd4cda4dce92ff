"""A backbone in a folder, a surrogate learnt in seconds, and finished runs of them."""

import copy
import functools
import gc

import pytest
import torch
import transformers

from metas_peft import experiment
from metas_peft.conf.compose import load
from metas_peft.conf.runfile import RunFile
from metas_peft.core.files import read_json
from metas_peft.costs import SHAPES
from metas_peft.devices import open_device, resolve_pool
from metas_peft.surrogate import MetaTraining, simulate_pool, train
from metas_peft.tasks import load_task
from metas_peft.testing.tiny import save_tiny_backbone

SMALL = (
    "model.precision=float32",
    "model.peft.r=2",
    "dataset.name=builtin",
    "dataset.train_limit=90",
    "dataset.evaluation_limit=40",
    "dataset.max_length=24",
    "dataset.batch_size=16",
    "training.num_epochs=1",
    "training.path_steps=16",
    "training.gate_steps=16",
    "training.joint_steps=3",
    "controller.inputs=30",
    "evaluation.operating_points=[0.8,0.5,0.3]",
)


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_single_threaded():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    gc.freeze()  # every training ends with a collection, which need not look at all imported libraries


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """Folder with a tiny BERT and a word tokeniser."""
    folder = tmp_path_factory.mktemp("backbone")
    return save_tiny_backbone(folder, load_task("builtin").train.texts, max_position_embeddings=64)


@pytest.fixture(scope="session")
def surrogate_file(tmp_path_factory):
    """A surrogate of the usual pool, hardly trained, where run files find it."""
    kept, _ = resolve_pool("six", "pixel-8")
    devices = [open_device(name) for name in kept]
    records = simulate_pool(devices, list(SHAPES.values()), records=240, seed=0)
    specs = {d.spec.device_id: d.spec for d in devices}
    learnt = train(records, seed=0, specs=specs, networks=1, draws=2, training=MetaTraining(steps=20))
    path = tmp_path_factory.mktemp("surrogate") / "meta.safetensors"
    learnt.save(path)
    return path


@pytest.fixture(scope="session")
def settings(backbone, surrogate_file):
    """Overrides -> configuration of a run that takes seconds."""

    def compose(*overrides, run_id="tiny"):
        usual = (f"run_id={run_id}", f"model.name={backbone}", f"surrogate.checkpoint_path={surrogate_file}")
        return load(RunFile(run_id, {}), [*usual, *SMALL, "device=pixel-8", *overrides])

    return compose


@pytest.fixture(scope="session")
def run(settings, tmp_path_factory):
    """Overrides -> folder of the finished run; the same ones are run once in a session."""

    @functools.cache
    def finished(*overrides):
        folder = tmp_path_factory.mktemp("run")
        return experiment.run(settings(*overrides), folder, progress=False)

    return finished


@pytest.fixture(scope="session")
def main_run(run):
    """MetaS-PEFT with its usual rivals, carried over to another simulated device."""
    return run("retarget=[jetson-nano]")


def numbers(results):
    """Results without what a clock said."""
    kept = copy.deepcopy(results)
    del kept["seconds"]
    for place in (kept, *kept["retargets"].values()):
        for baseline in place["baselines"].values():
            del baseline["seconds"]
    if kept["controller"]:
        del kept["controller"]["decision_us"], kept["controller"]["tree_us"]
    return kept


def results_of(folder):
    """Content of a run's `results.json`."""
    return read_json(folder / "results.json")
