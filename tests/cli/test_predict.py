"""`metas predict` as users meet it."""

import io
import json
import shutil

import pytest
import torch
import transformers

from metas_peft import cli
from metas_peft.serving import AdaptiveModel
from metas_peft.testing.served import save_tiny_run, save_tiny_writer

SHORT, LONG = "a fine film", "a fine film about nothing is dull , dull , dull"


def status_of(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    return left.value.code or 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    return save_tiny_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def predicted(capsys, *arguments):
    assert status_of("predict", *arguments, "--json", "-") == 0
    return json.loads(capsys.readouterr().out)


def test_predictions_are_those_of_the_adaptive_model(run, capsys):
    result = predicted(capsys, run, SHORT, LONG)
    expected = AdaptiveModel.open(run).predict([SHORT, LONG])
    assert result["run_id"] == "tiny"
    assert result["controller"] is True
    assert result["members"] == {"60 %": 1, "30 %": 1}
    for row, text, answer in zip(result["predictions"], (SHORT, LONG), expected, strict=True):
        assert (row["text"], row["label"], row["member"]) == (text, answer.label, answer.member)
        assert row["probability"] == pytest.approx(answer.probability)
        assert row["logits"] == pytest.approx(answer.logits.tolist())
        assert row["decision_us"] > 0


def test_table_shows_label_probability_member_and_time(run, capsys):
    assert status_of("predict", run, SHORT, LONG) == 0
    told = capsys.readouterr()
    lines = [line.split() for line in told.out.splitlines() if "film" in line]
    assert [(line[-1], line[-4:-2]) for line in lines] == [("us", ["30", "%"]), ("us", ["60", "%"])]
    assert all(word in told.out for word in ("label", "probability", "member", "decision"))
    assert told.err == ""


def test_texts_come_from_a_file_and_from_standard_input(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{LONG}\n\ndull\n"))
    (tmp_path / "texts.txt").write_text("it is dull\nfine\n", encoding="utf-8")
    result = predicted(capsys, run, SHORT, "-", "--file", tmp_path / "texts.txt")
    assert [row["text"] for row in result["predictions"]] == [SHORT, LONG, "dull", "it is dull", "fine"]


def test_a_named_member_answers_everything_without_a_controller(copied, capsys):
    (copied / "controller.json").unlink()
    result = predicted(capsys, copied, SHORT, LONG, "--member", "60%", "--batch-size", 1)
    assert result["controller"] is False
    assert result["members"] == {"60 %": 2, "30 %": 0}
    assert {row["decision_us"] for row in result["predictions"]} == {None}


def test_language_models_write_behind_the_text(tmp_path, capsys):
    folder = save_tiny_writer(tmp_path / "run")
    result = predicted(capsys, folder, "a dull film", "dull", "--max-new-tokens", 6)
    expected = [list(AdaptiveModel.open(folder).stream(text, max_new_tokens=6)) for text in ("a dull film", "dull")]
    for row, tokens in zip(result["predictions"], expected, strict=True):
        assert row["tokens"] == [t.token_id for t in tokens]
        assert row["written"] == "".join(t.text for t in tokens)
        assert sum(row["members"].values()) == 6
    assert result["members"] == {"large": 12 - result["members"]["small"], "small": result["members"]["small"]}
    assert 0 < result["members"]["small"] < 12
    assert status_of("predict", folder, "dull", "--member", "small", "--max-new-tokens", 2) == 0
    assert "2 by small" in capsys.readouterr().out


def without(folder, *names):
    for name in names:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def of_another_run(folder):
    path = folder / "results.json"
    path.write_text(path.read_text().replace('"tiny"', '"other"'))


@pytest.mark.parametrize(
    ("change", "arguments", "status", "message"),
    [
        (lambda f: without(f, "models"), (), 1, "has no front"),
        (of_another_run, (), 1, "belongs to another run"),
        (lambda f: without(f, "results.json"), (), 1, "has not finished"),
        (lambda f: without(f, "results.json", "config.yaml"), (), 1, "holds no run"),
        (lambda f: without(f, "controller.json"), (), 1, "has no controller"),
        (lambda f: without(f, "self_information.f32"), (), 1, "has no self_information.f32"),
        (lambda f: None, ("--member", "50 %"), 1, "no member '50 %'"),
        (lambda f: None, ("--file", "nowhere.txt"), 1, "nowhere.txt cannot be read"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(copied, capsys, change, arguments, status, message):
    change(copied)
    assert status_of("predict", copied, SHORT, *arguments) == status
    told = capsys.readouterr()
    assert message in told.err
    assert len(told.err.splitlines()) == 1
    assert told.out == ""


def test_input_that_is_not_utf8_is_answered_in_one_sentence(run, capsys, monkeypatch):
    for errors, message in (("strict", "Standard input cannot be read"), ("surrogateescape", "is no text")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"fine\nd\xfcll\n"), "utf-8", errors))
        assert status_of("predict", run, "-") == 1
        told = capsys.readouterr().err
        assert message in told
        assert len(told.splitlines()) == 1
    assert status_of("predict", run, "d\udcfcll") == 1
    assert "'d\\udcfcll' is no text" in capsys.readouterr().err


def test_no_text_is_wrong_usage(run, capsys):
    assert status_of("predict", run) == 2
    assert "There is no text" in capsys.readouterr().err
