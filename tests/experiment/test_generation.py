"""Runs of a decoder on prompts and answers, through `generate`, to report and comparison."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

import metas_peft
from metas_peft import experiment
from metas_peft.backbones.load import load_backbone
from metas_peft.core.errors import DatasetError, UnsupportedBackboneError
from metas_peft.report import write_report
from metas_peft.report.compare import compare
from metas_peft.tasks import TASKS, replies
from metas_peft.testing.prompts import write_gsm8k, write_natural_instructions
from metas_peft.tuning.writing import WritingForm

from .conftest import results_of

DECODER = ("model.name=tiny-decoder", "model.weights=random", "dataset.train_limit=24", "dataset.evaluation_limit=6")
QUICK = ("dataset.batch_size=6", "training.path_steps=8", "training.joint_steps=2", "controller.inputs=12")
FRONT = ("evaluation.operating_points=[0.7,0.4]", "evaluation.baselines=[static-lora]")


@pytest.fixture(scope="module")
def decoded(settings, tmp_path_factory):
    """Name of a task and further overrides -> folder of the finished run of a tiny decoder."""
    writers = {"natural_instructions": write_natural_instructions, "gsm8k": write_gsm8k}

    def finished(task, *overrides):
        folder = tmp_path_factory.mktemp(task)
        path = writers[task](folder / "data")
        names = (f"dataset.name={task}", f"dataset.path={path}", "dataset.max_length=96", "dataset.max_new_tokens=5")
        config = settings(*DECODER, *QUICK, *FRONT, *names, *overrides, run_id=f"{task}-run")
        return experiment.run(config, folder / "run", progress=False)

    return finished


@pytest.fixture(scope="module", params=["natural_instructions", "gsm8k"])
def run(request, decoded):
    return request.param, decoded(request.param)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_run_ends_with_results_and_report(run):
    task, folder = run
    results = results_of(folder)
    assert results["task"] == task
    assert results["quality_metric"] == TASKS[task].metrics[0]
    assert [m["name"] for m in results["front"]] == ["70 %", "40 %"]
    for row in (results["dense"], *results["front"]):
        assert list(row["scores"]) == list(TASKS[task].metrics)
        assert 0 <= row["quality"] <= 1
        assert row["energy_j"] > 0
    assert results["front"][0]["masked_vs_compact"] < 1e-4
    assert results["measurements"]["training"] == 0
    assert results["controller"]["decision_us"] > 0
    assert results["hypervolume"]["useful"] > 0
    assert any("one more pass per token" in note for note in results["notes"])
    page = write_report(folder).read_text()
    assert ("ROUGE-L" if task == "natural_instructions" else "exact match") in page


def test_every_reply_is_kept_and_is_what_the_member_writes(run):
    _, folder = run
    lines = lines_of(folder)
    assert len(lines) == 6
    for member in sorted((folder / "models").iterdir()):
        model, tokenizer = metas_peft.load(member), AutoTokenizer.from_pretrained(member)
        name = json.loads((member / "plan.json").read_text())["about"]["name"]
        form = WritingForm(tokenizer, 5, False)
        data = form.encode(tokenizer, examples_of(lines), 96)
        texts = form.answer(model, data, tokenizer.pad_token_id)["text"].tolist()
        assert texts == [line["MetaS-PEFT"][name] for line in lines]


def test_served_member_writes_what_the_run_wrote(run):
    task, folder = run
    model, served = metas_peft.AdaptiveModel.open(folder), 0
    assert model.tokenizer.eos_token_id in model.front.end_tokens
    for line in lines_of(folder):
        if len(model.tokenizer(line["prompt"])["input_ids"]) <= 96:  # longer ones were cut
            ids = [t.token_id for t in model.stream(line["prompt"], max_new_tokens=5, member="70 %")]
            text = model.tokenizer.decode(ids, skip_special_tokens=True).replace("\0", "").strip()
            assert text == line["MetaS-PEFT"]["70 %"]
            served += 1
    assert served or task == "natural_instructions"


def examples_of(lines):
    from metas_peft.tasks import PromptExamples

    return PromptExamples(tuple(line["prompt"] for line in lines), tuple(tuple(line["accepted"]) for line in lines))


def test_marks_of_the_replies_make_the_quality(run):
    task, folder = run
    lines, results = lines_of(folder), results_of(folder)
    with np.load(folder / "answers.npz") as stored:
        marks, labels = stored["MetaS-PEFT"], stored["labels"].tolist()
    assert labels == [line["accepted"][0] for line in lines]
    for row, member in zip(marks, results["front"], strict=True):
        texts = replies.as_array([line["MetaS-PEFT"][member["name"]] for line in lines])
        assert TASKS[task].marks(texts, examples_of(lines).answers).tolist() == row.tolist()
        assert member["quality"] == pytest.approx(row.mean())


def test_runs_of_two_seeds_are_compared(decoded, tmp_path):
    metric = "dataset.metric=rouge_l"
    runs = [decoded("natural_instructions", metric, f"training.seed={seed}") for seed in (0, 1)]
    (cell,) = compare(runs)
    assert cell.cell.quality_metric == "rouge_l"


def test_likelihood_alone_judges_where_nothing_is_written(settings, tmp_path):
    rows = [{"prompt": f"Say yes, {n}:", "answer": "yes"} for n in range(40)]
    (tmp_path / "yes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = (f"dataset.path={tmp_path / 'yes.jsonl'}", "dataset.answer_column=answer", "dataset.max_new_tokens=0")
    more = ("training.num_epochs=8", "training.learning_rate=2e-2", "evaluation.baselines=[]")
    config = settings(*DECODER, *QUICK, *FRONT, "dataset.name=yes", *own, *more, run_id="yes")
    folder = experiment.run(config, tmp_path / "run", progress=False)
    results = results_of(folder)
    assert results["quality_metric"] == "inverse_perplexity"
    assert results["dense"]["quality"] > 10 / 259  # a model that learnt nothing gives a byte 1/259
    assert results["dense"]["scores"]["nats_per_token"] > 0
    assert not (folder / "predictions.jsonl").exists()


def test_encoder_cannot_write_answers(settings, tmp_path):
    path = write_gsm8k(tmp_path / "data")
    with pytest.raises(UnsupportedBackboneError, match="is an encoder: it cannot write answers"):
        experiment.run(settings("dataset.name=gsm8k", f"dataset.path={path}"), tmp_path / "run", progress=False)


# ---- from Python

IN_MEMORY = (
    "model.precision=float32", "model.peft.r=2", "dataset.max_length=48", "dataset.max_new_tokens=3",
    "dataset.batch_size=6", "training.num_epochs=1", "training.path_steps=6", "training.joint_steps=2",
    "controller.inputs=6", "evaluation.operating_points=[0.7,0.4]", "evaluation.baselines=[]",
)  # fmt: skip


def writer():
    loaded = load_backbone("tiny-decoder", n_labels=None, weights="random")
    return loaded.model, loaded.tokenizer


def test_language_model_of_ones_own_is_tuned_on_prompts_and_answers(surrogate_file, tmp_path):
    model, tokenizer = writer()
    train = ([f"Count {n}: " for n in range(24)], ["ab" if n % 2 else ["cd", "dc"] for n in range(24)])
    settings = [*IN_MEMORY, f"surrogate.checkpoint_path={surrogate_file}", "dataset.metric=exact_match"]
    front = metas_peft.tune(
        model, tokenizer, train, (train[0][:5], train[1][:5]), out=tmp_path / "o", settings=settings
    )
    assert [member.name for member in front] == ["70 %", "40 %"]
    assert front.results["quality_metric"] == "exact_match"
    assert [line["accepted"] for line in lines_of(tmp_path / "o")][:2] == [["cd", "dc"], ["ab"]]
    assert any("one more pass per token" in note for note in front.results["notes"])
    small = front["40 %"].load()
    ids = tokenizer("Count 3:", return_tensors="pt").input_ids
    assert small.generate(ids, max_new_tokens=2, do_sample=False).shape[1] == ids.shape[1] + 2


@pytest.mark.parametrize("answer", ["  ", [], ["a", 3], 7])
def test_answer_that_is_none_is_named(answer, tmp_path):
    with pytest.raises(DatasetError, match="`train` has the answer .* a text that is not empty"):
        metas_peft.tune(*writer(), (["a", "b"], ["x", answer]), (["a"], ["x"]), out=tmp_path / "o")
