"""The library's front door: a model and texts in memory."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import metas_peft
from metas_peft.core.cost import METRICS
from metas_peft.core.errors import (
    CheckpointError,
    DatasetError,
    UnknownNameError,
    UnsupportedBackboneError,
    UsageError,
)
from metas_peft.tasks import load_task

SETTINGS = [
    "model.precision=float32", "model.peft.r=2", "dataset.max_length=24", "dataset.batch_size=16",
    "training.num_epochs=1", "training.path_steps=12", "training.joint_steps=2", "controller.inputs=20",
    "evaluation.operating_points=[0.7,0.4]", "evaluation.baselines=[]",
]  # fmt: skip


@pytest.fixture(scope="module")
def texts():
    task = load_task("builtin", train_limit=80, evaluation_limit=30, seed=0)
    return (task.train.texts, task.train.labels), (task.validation.texts, task.validation.labels)


@pytest.fixture
def model(backbone):
    return AutoModelForSequenceClassification.from_pretrained(backbone)


@pytest.fixture
def tokenizer(backbone):
    return AutoTokenizer.from_pretrained(backbone)


@pytest.fixture(scope="module")
def tune(surrogate_file):
    def call(model, tokenizer, train, validation, out, *settings):
        settings = [*SETTINGS, f"surrogate.checkpoint_path={surrogate_file}", *settings]
        return metas_peft.tune(model, tokenizer, train, validation, out=out, settings=settings)

    return call


@pytest.fixture(scope="module")
def tuned(tune, backbone, texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "my-run"
    model = AutoModelForSequenceClassification.from_pretrained(backbone)
    return tune(model, AutoTokenizer.from_pretrained(backbone), *texts, out), out


def test_front_has_its_members_with_costs_and_origins(tuned):
    front, out = tuned
    assert [m.name for m in front] == ["70 %", "40 %"]
    assert len(front) == 2
    for member in front:
        assert 0 <= member.quality <= 1
        assert all(value > 0 for _, value in member.cost.items())
        assert {str(o) for _, o in member.origin.items()} == {"simulated"}
        assert member.folder.is_dir()
        assert isinstance(member.load(), torch.nn.Module)
    assert front["40 %"].flops_fraction <= 0.4 < front["70 %"].flops_fraction <= 0.7
    assert front[front["40 %"].folder.name].name == "40 %"
    again = metas_peft.Front(out)
    assert [[getattr(m.cost, c) for c in METRICS] for m in again] == [
        [getattr(m.cost, c) for c in METRICS] for m in front
    ]


def test_run_says_where_its_data_and_model_came_from(tuned):
    results = tuned[0].results
    assert (results["task_source"], results["backbone_source"]) == ("given in memory", "given in memory")
    assert results["target_device"] == "pixel-8"
    assert results["run_id"] == "my-run"


def test_unknown_member_names_the_nearest(tuned):
    with pytest.raises(UnknownNameError, match="no member '45 %'.*did you mean '40 %'"):
        tuned[0]["45 %"]


def test_model_and_tokeniser_of_the_caller_stay_as_they_were(tune, texts, model, tokenizer, tmp_path):
    before, pad = copy.deepcopy(model.state_dict()), tokenizer.pad_token
    names = [n for n, _ in model.named_modules()]
    first = tune(model, tokenizer, *texts, tmp_path / "first", "controller.inputs=5")
    assert [n for n, _ in model.named_modules()] == names
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert tokenizer.pad_token == pad
    second = tune(model, tokenizer, *texts, tmp_path / "second", "controller.inputs=5")
    weights = [[m.load().state_dict() for m in front] for front in (first, second)]
    for mine, theirs in zip(*weights, strict=True):
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_model_in_bfloat16_is_tuned_in_float32(tune, texts, model, tokenizer, tmp_path):
    front = tune(model.bfloat16(), tokenizer, *texts, tmp_path / "out", "controller.inputs=5")
    assert {p.dtype for m in front for p in m.load().parameters()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_finished_folder_is_opened_again_for_the_same_input(tune, texts, model, tokenizer, tuned):
    front, out = tuned
    again = tune(model, tokenizer, *texts, out)
    assert [m.quality for m in again] == [m.quality for m in front]


def test_other_texts_in_the_same_folder_are_refused(tune, texts, model, tokenizer, tuned):
    (train, labels), validation = texts
    with pytest.raises(UsageError, match=r"contents\.data was"):
        tune(model, tokenizer, (train, [1 - label for label in labels]), validation, tuned[1])
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.add_(1e-3)
    with pytest.raises(UsageError, match=r"contents\.model was"):
        tune(model, tokenizer, *texts, tuned[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, v: ((t[0], [*t[1][:-1], 7]), v), "label is 7; the model has 2 classes"),
        (lambda t, v: (t, (v[0], [-1] * len(v[1]))), "label is -1"),
        (lambda t, v: ((t[0], t[1][:-1]), v), "72 texts came with 71 labels"),
        (lambda t, v: (([], []), v), "0 examples"),
        (lambda t, v: ((t[0], ["good"] * len(t[1])), v), "has the label 'good'; class numbers 0 to 1"),
        (lambda t, v: (list(zip(*t, strict=True)), v), "`train` is not a pair"),
        (lambda t, v: (list(zip(*t, strict=True))[:2], v), "`train` has [01] among its texts"),
        (lambda t, v: (t[0], v), "`train` is not a pair"),
        (lambda t, v: (t, 3), "`validation` is not a pair"),
        (lambda t, v: (t, ([], [])), "evaluat|example"),
    ],
)
def test_texts_that_do_not_fit_are_refused_before_anything_is_written(
    change, message, tune, texts, model, tokenizer, tmp_path
):
    with pytest.raises(DatasetError, match=message):
        tune(model, tokenizer, *change(*texts), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_may_be_an_array(tune, texts, model, tokenizer, tuned):
    (train, labels), (validation, answers) = texts
    again = tune(model, tokenizer, (train, np.array(labels)), (validation, torch.tensor(answers)), tuned[1])
    assert [m.quality for m in again] == [m.quality for m in tuned[0]]


def test_models_that_cannot_be_tuned_are_refused(texts, model, tokenizer, backbone, tmp_path):
    with pytest.raises(UnsupportedBackboneError, match="BertModel has no classification head"):
        metas_peft.tune(AutoModel.from_pretrained(backbone), tokenizer, *texts, out=tmp_path)
    with pytest.raises(UnsupportedBackboneError, match="carries adapters already"):
        metas_peft.tune(get_peft_model(model, LoraConfig(task_type="SEQ_CLS")), tokenizer, *texts, out=tmp_path)


@pytest.mark.parametrize("settings", ["training.seed=3", {"training.seed": 3}, [3]])
def test_settings_of_the_wrong_kind_are_refused(settings, texts, model, tokenizer, tmp_path):
    with pytest.raises(UsageError, match="a list of texts was expected"):
        metas_peft.tune(model, tokenizer, *texts, out=tmp_path, settings=settings)


def test_front_shows_its_members(tuned):
    assert repr(tuned[0]).endswith(">")
    assert "for pixel-8: 70 % (" in repr(tuned[0])


def test_public_names_are_all_there_is():
    served, gated = {"AdaptiveModel", "ServedFront"}, {"GateCallback", "GateSet", "attach", "expected_subnet"}
    assert set(dir(metas_peft)) == {"Front", "load", "tune", "__version__", *served, *gated}


def test_folder_without_a_run_is_no_front(tmp_path):
    with pytest.raises(CheckpointError, match="holds no finished run"):
        metas_peft.Front(tmp_path)
