"""Prompts with answers: read from every layout, asked in one way, judged by their metrics."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from metas_peft.core.errors import DatasetError, DatasetUnavailableError, UnknownNameError
from metas_peft.tasks import TASKS, DatasetRequest, PromptExamples, PromptTask, load_task, open_task, replies
from metas_peft.tasks.natural_instructions import PER_TASK
from metas_peft.tasks.splits import for_choosing
from metas_peft.testing.prompts import write_gsm8k, write_instructions, write_math, write_natural_instructions

WRITERS = {
    "natural_instructions": write_natural_instructions,
    "gsm8k": write_gsm8k,
    "math": write_math,
    "alpaca-cleaned": write_instructions,
    "dolly-15k": write_instructions,
}
HEADLINES = {
    "natural_instructions": "rouge_l",
    "gsm8k": "exact_match",
    "math": "exact_match",
    "alpaca-cleaned": "inverse_perplexity",
    "dolly-15k": "inverse_perplexity",
}


def prompt_tasks():
    return [name for name in TASKS if isinstance(TASKS[name], PromptTask)]


def perfect(task, references):
    """Replies that say what is right, and a model that is sure of it."""
    return replies.as_array([accepted[0] for accepted in references], [0.0] * len(references))


def test_there_are_five_tasks_of_prompts_and_answers():
    assert sorted(prompt_tasks()) == sorted(WRITERS) == sorted(HEADLINES)


@pytest.mark.parametrize("name", sorted(WRITERS))
class TestEveryTask:
    def load(self, name, tmp_path):
        return load_task(name, path=WRITERS[name](tmp_path, name))

    def test_has_prompts_answers_and_a_headline(self, name, tmp_path):
        data = self.load(name, tmp_path)
        assert (data.name, data.origin, data.label_names) == (name, "real", ())
        assert data.quality_metric == HEADLINES[name]
        assert 0 <= data.chance_quality < 1
        for part in (data.train, data.holdout, data.validation):
            assert isinstance(part, PromptExamples)
            assert len(part)
            assert all(text == text.rstrip() and text.endswith(":") for text in part.texts)
            assert all(answer == answer.strip() for accepted in part.answers for answer in accepted)
        assert not set(data.train.texts) & set(data.holdout.texts)

    def test_scores_the_headline_first_and_one_when_all_is_right(self, name, tmp_path):
        task, references = TASKS[name], self.load(name, tmp_path).validation.references
        scores = task.score(perfect(task, references), references)
        assert next(iter(scores.items())) == (HEADLINES[name], 1.0)
        assert task.marks(perfect(task, references), references).tolist() == [1.0] * len(references)

    def test_refuses_to_score_nothing(self, name, tmp_path):
        with pytest.raises(DatasetError, match="one reply per example"):
            TASKS[name].score(replies.as_array([]), ())

    def test_chance_is_the_most_frequent_training_answer_to_everything(self, name, tmp_path):
        data, task = self.load(name, tmp_path), TASKS[name]
        guesses = task.guess([*data.train.references, *data.holdout.references], len(data.validation))
        scores = task.score(guesses, data.validation.references)
        assert data.chance_quality == scores[HEADLINES[name]]
        assert for_choosing(data, task).validation == data.holdout

    def test_is_read_from_the_data_folder_and_refuses_the_generated_corpus(self, name, tmp_path, monkeypatch):
        WRITERS[name](tmp_path / name, name)
        monkeypatch.setenv("METAS_DATA", str(tmp_path))
        assert len(load_task(name, source="local").validation)
        with pytest.raises(DatasetError, match=f"no generated examples for {name}"):
            load_task(name, source="builtin")

    def test_says_where_to_get_it_without_a_copy(self, name, tmp_path):
        with pytest.raises(DatasetUnavailableError, match=f"{name} is not on this computer.*path"):
            load_task(name)


# ---- layouts


def test_natural_instructions_show_definition_examples_and_instance(tmp_path):
    data = load_task("natural_instructions", path=write_natural_instructions(tmp_path))
    text = data.validation.texts[0]
    assert text == (
        "Definition: Say the opposite of the word.\n\nInput: hot\nOutput: cold\n\nInput: big\nOutput: small\n\n"
        "Input: word 0\nOutput:"
    )
    assert data.validation.answers[0] == ("opposite 0", "another opposite 0")


def test_natural_instructions_train_and_evaluate_on_different_tasks(tmp_path):
    data = load_task("natural_instructions", path=write_natural_instructions(tmp_path))
    told = [{text.split("\n")[0] for text in part.texts} for part in (data.train, data.validation)]
    assert told[0] == {"Definition: Repeat the word. Do not change it.", "Definition: Count the letters."}
    assert told[1] == {"Definition: Say the opposite of the word."}


def test_natural_instructions_take_the_first_hundred_of_a_task(tmp_path):
    folder = write_natural_instructions(tmp_path, instances=PER_TASK + 7)
    data = load_task("natural_instructions", path=folder)
    assert len(data.train) + len(data.holdout) == 2 * PER_TASK
    assert len(data.validation) == PER_TASK


def test_natural_instructions_without_lists_of_tasks_hold_a_part_back(tmp_path):
    folder = write_natural_instructions(tmp_path)
    data = load_task("natural_instructions", path=folder / "tasks")
    assert "rows held back" in data.source
    assert len(data.train) + len(data.holdout) + len(data.validation) == 36


def test_natural_instructions_of_another_layout_are_named(tmp_path):
    folder = write_natural_instructions(tmp_path)
    (folder / "tasks" / "task001_repeat.json").write_text('{"Definition": "x", "Instances": []}')
    with pytest.raises(DatasetError, match=r"task001_repeat.json is not laid out as a task .*Positive Examples"):
        load_task("natural_instructions", path=folder)


def test_list_of_tasks_that_are_not_here_is_refused(tmp_path):
    folder = write_natural_instructions(tmp_path)
    (folder / "splits/default/test_tasks.txt").write_text("task999_nowhere\n")
    with pytest.raises(DatasetError, match="None of the 1 tasks in .*test_tasks.txt has a file"):
        load_task("natural_instructions", path=folder)


def test_gsm8k_asks_the_question_and_leaves_out_the_calculator(tmp_path):
    data = load_task("gsm8k", path=write_gsm8k(tmp_path))
    assert data.validation.texts[0] == "Question: How many are 24 and 3?\nAnswer:"
    assert data.validation.answers[0] == ("24 and 3 are 27.\n#### 27",)


def test_math_is_read_in_the_layout_of_its_release_and_as_a_table(tmp_path):
    released = load_task("math", path=write_math(tmp_path / "released"))
    rows = [{"problem": f"What is {n}?", "solution": rf"\boxed{{{n}}}"} for n in range(12)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = load_task("math", path=tmp_path)
    assert released.validation.texts[0].startswith("Problem: ")
    assert table.validation.texts[0] == "Problem: What is 0?\nSolution:"


def test_instructions_leave_out_an_empty_input(tmp_path):
    data = load_task("alpaca-cleaned", path=write_instructions(tmp_path, "alpaca-cleaned"))
    texts = data.train.texts + data.holdout.texts + data.validation.texts
    assert "Instruction: Name a colour 0.\nInput: It is warm.\nResponse:" in texts
    assert "Instruction: Name a colour 1.\nResponse:" in texts


def test_json_list_and_json_lines_are_the_same_table(tmp_path):
    rows = [{"instruction": f"Do {n}", "input": "", "output": f"Done {n}"} for n in range(30)]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=2))
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, other = (load_task("alpaca-cleaned", path=tmp_path / name) for name in ("list.json", "lines.json"))
    assert (one.train, one.validation) == (other.train, other.validation)
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(DatasetError, match="row 1: int; an object"):
        load_task("alpaca-cleaned", path=tmp_path / "list.json")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q"}, "no column 'answer'"),
        ({"question": None, "answer": "#### 1"}, "row 1 is not laid out as gsm8k is"),
        ({"question": "Q", "answer": "  "}, "row 1: an empty answer"),
    ],
)
def test_row_that_is_no_example_is_named(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DatasetError, match=message):
        load_task("gsm8k", path=path)


# ---- judging


def test_gsm8k_counts_the_number_behind_the_hashes_alone():
    task, references = TASKS["gsm8k"], (("#### 1,000",),) * 4
    given = replies.as_array(["so #### 1000.0", "#### 100", "1000", "#### 1000 #### 5"])
    assert task.marks(given, references).tolist() == [1, 0, 0, 1]
    assert task.given(given).tolist() == ["1000", "100", "", "1000"]


def test_math_counts_the_box_alone():
    task, references = TASKS["math"], ((r"\boxed{\frac{1}{2}}",),) * 3
    given = replies.as_array([r"thus $\boxed{\dfrac12}$", r"\frac{1}{2}", r"\boxed{2}"])
    assert task.marks(given, references).tolist() == [1, 0, 0]


def test_likelihood_is_the_mean_of_the_inverse_perplexities():
    task, references = TASKS["alpaca-cleaned"], (("a",), ("b",))
    given = replies.as_array(["", ""], [0.0, math.log(4)])
    assert task.score(given, references) == {"inverse_perplexity": 0.625, "nats_per_token": math.log(4) / 2}
    assert task.given(given).tolist() == [19, 5]
    assert task.written(given) == []


def test_replies_asked_for_stand_beside_the_likelihood():
    task = open_task("alpaca-cleaned", max_new_tokens=8)
    scores = task.score(replies.as_array(["a b"], [0.0]), (("a b",),))
    assert list(scores) == ["inverse_perplexity", "rouge_l", "nats_per_token"]


def test_replies_can_be_stacked_and_stored(tmp_path):
    rows = np.stack([replies.as_array(["a", "bb"], [0.1, 0.2]), replies.as_array(["cccc", ""])])
    np.savez_compressed(tmp_path / "a.npz", allow_pickle=False, rows=rows)
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["rows"]["text"].tolist() == [["a", "bb"], ["cccc", ""]]
        assert stored["rows"]["nats"][0].tolist() == [0.1, 0.2]
        assert np.isnan(stored["rows"]["nats"][1]).all()


# ---- what a run file may say


def write_own(folder: Path) -> Path:
    path = folder / "letters.jsonl"
    rows = [{"ask": f"Letter {n}?", "say": ["A", "a!"] if n % 2 else "B"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_own_prompts_and_answers_are_read_by_the_names_of_their_columns(tmp_path):
    path = write_own(tmp_path)
    task = open_task("letters", path=path, prompt_column="ask", answer_column="say")
    data = task.load(DatasetRequest(path=path))
    assert task.kind == "generation"
    assert set(data.train.answers) == {("A", "a!"), ("B",)}
    assert data.quality_metric == "rouge_l"
    assert data.chance_quality > 0.3


def load_answers(path, *answers):
    path.write_text("".join(json.dumps({"prompt": f"{n}?", "answer": a}) + "\n" for n, a in enumerate(answers)))
    return open_task("sums", path=path, answer_column="answer").load(DatasetRequest(path=path))


def test_answers_may_be_numbers(tmp_path):
    data = load_answers(tmp_path / "sums.jsonl", *[42, 4.0, [0.5, "half", None], "yes"] * 8)
    assert set(data.train.answers) == {("42",), ("4",), ("0.5", "half"), ("yes",)}


@pytest.mark.parametrize("odd", [None, True, {"text": "a"}, [True], float("nan")])
def test_answer_that_is_none_is_named_with_its_row(tmp_path, odd):
    with pytest.raises(DatasetError, match=r"sums.jsonl, row 2 is not laid out as sums is .*is no answer"):
        load_answers(tmp_path / "sums.jsonl", "yes", odd, *["no"] * 20)


def test_metric_of_a_task_can_be_chosen(tmp_path):
    assert open_task("natural_instructions", metric="exact_match").metrics == ("exact_match", "rouge_l")
    own = open_task("letters", path=tmp_path, answer_column="say", metric="inverse_perplexity")
    assert own.metrics[0] == "inverse_perplexity"
    assert open_task("letters", path=tmp_path, answer_column="say", max_new_tokens=0).metrics == ("inverse_perplexity",)


@pytest.mark.parametrize(
    ("name", "wishes", "error", "message"),
    [
        ("gsm8k", {"metric": "rouge_l"}, UnknownNameError, "Unknown metric 'rouge_l' of gsm8k: .*Known: exact_match"),
        ("gsm8k", {"max_new_tokens": 0}, DatasetError, "leaves nothing to judge"),
        ("gsm8k", {"text_column": "x"}, DatasetError, "leave out dataset.text_column; its columns are known"),
        ("sst2", {"max_new_tokens": 5}, DatasetError, "sst2: leave out dataset.max_new_tokens; it has classes"),
        ("mine/set", {"metric": "rouge_l"}, DatasetError, "name dataset.answer_column"),
        ("mine/set", {"answer_column": "a", "label_column": "b"}, DatasetError, "columns of prompts are named too"),
    ],
)
def test_wish_that_makes_no_sense_is_one_sentence(name, wishes, error, message):
    with pytest.raises(error, match=message):
        open_task(name, **wishes)
