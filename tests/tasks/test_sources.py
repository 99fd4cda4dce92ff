"""Where a data set comes from: the order of sources, and what is said when there is none."""

import http.server
import logging
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from metas_peft.core.errors import DatasetError, DatasetUnavailableError
from metas_peft.tasks import TASKS, hub, load_task, replies
from metas_peft.tasks.hub import HubSource, SplitColumns

STAND_IN = "sst2 (synthetic stand-in)"


@pytest.fixture
def fake_hub(monkeypatch):
    """A hub that holds some repositories and notes what it was asked for."""
    asked: list[str] = []
    holds: dict[str, SplitColumns] = {}

    def download(source, evaluation):
        asked.append(source.repo)
        if source.repo not in holds:
            raise DatasetUnavailableError(f"no {source.repo}")
        return holds[source.repo]

    monkeypatch.setattr("metas_peft.tasks.sources.download", download)
    return asked, holds


def _columns(repo: str, text: str = "from the hub", name: str = "sentence") -> SplitColumns:
    table = {name: [f"{text} {i}" for i in range(4)], "label": [0, 1, 0, 1]}
    return SplitColumns(table, table, f"huggingface:{repo}")


def test_path_goes_before_everything(four_rows, tmp_path, write_parquet, monkeypatch, fake_hub):
    write_parquet(tmp_path / "root/sst2/train.parquet", ["a", "b"], [0, 1])
    write_parquet(tmp_path / "root/sst2/validation.parquet", ["a", "b"], [0, 1])
    monkeypatch.setenv("METAS_DATA", str(tmp_path / "root"))
    data = load_task("sst2", path=four_rows, source="huggingface:stanfordnlp/sst2")
    assert data.source == f"local:{four_rows}"
    assert data.validation.texts[0] == "GOOD FILM"
    assert (data.name, data.origin, fake_hub[0]) == ("sst2", "real", [])


def test_environment_goes_before_the_hub(four_rows, tmp_path, monkeypatch, fake_hub):
    four_rows.rename(tmp_path / "sst2")
    monkeypatch.setenv("METAS_DATA", str(tmp_path))
    assert load_task("sst2").source == f"local:{tmp_path / 'sst2'}"
    assert load_task("sst2", source="local").origin == "real"
    assert fake_hub[0] == []


def test_hub_goes_before_the_generated_corpus(fake_hub):
    asked, holds = fake_hub
    holds["SetFit/sst2"] = _columns("SetFit/sst2", name="text")
    data = load_task("sst2")
    assert asked == ["stanfordnlp/sst2", "SetFit/sst2"]
    assert (data.name, data.origin, data.source) == ("sst2", "real", "huggingface:SetFit/sst2")


def test_named_repository_is_the_only_one_asked(fake_hub):
    asked, _ = fake_hub
    with pytest.raises(DatasetUnavailableError, match="no somebody/else"):
        load_task("sst2", source="huggingface:somebody/else")
    assert asked == ["somebody/else"]


@pytest.mark.parametrize("source", ["huggingface:stanfordnlp/sst2", "hub:StanfordNLP/sst2", "huggingface"])
def test_local_copy_stands_in_for_the_official_repository_and_says_so(four_rows, monkeypatch, fake_hub, caplog, source):
    four_rows.rename(four_rows.with_name("sst2"))
    monkeypatch.setenv("METAS_DATA", str(four_rows.parent))
    data = load_task("sst2", source=source)
    assert data.source == f"local:{four_rows.with_name('sst2')}"
    (note,) = data.notes
    assert "asks for huggingface:stanfordnlp/sst2; the copy of sst2 under METAS_DATA was read in its place" in note
    assert note in caplog.text
    assert load_task("sst2").notes == ()
    assert fake_hub[0] == []


@pytest.mark.parametrize("repository", ["SetFit/sst2", "somebody/else"])
def test_local_copy_stands_in_for_no_other_repository(four_rows, monkeypatch, fake_hub, repository):
    four_rows.rename(four_rows.with_name("sst2"))
    monkeypatch.setenv("METAS_DATA", str(four_rows.parent))
    asked, holds = fake_hub
    with pytest.raises(DatasetUnavailableError, match=f"no {repository}"):
        load_task("sst2", source=f"huggingface:{repository}")
    holds[repository] = _columns(repository)
    assert load_task("sst2", source=f"huggingface:{repository}").source == f"huggingface:{repository}"
    assert asked == [repository] * 2


def test_nothing_stands_in_for_a_repository_of_the_user_s_choice():
    with pytest.raises(DatasetUnavailableError, match="cannot be reached"):
        load_task("sst2", source="huggingface:SetFit/sst2")


def test_generated_corpus_stands_in_aloud_when_there_is_no_network(caplog):
    with caplog.at_level(logging.WARNING):
        data = load_task("sst2", source="huggingface:stanfordnlp/sst2")
    assert (data.name, data.origin) == (STAND_IN, "synthetic")
    assert "generated" in data.source
    assert len(caplog.records) == 1
    assert "GENERATED sentences stand in" in caplog.text


def test_generated_corpus_is_no_stand_in_for_a_repository_that_does_not_exist(fake_hub):
    with pytest.raises(DatasetUnavailableError, match="no stanfordnlp/sst2; no SetFit/sst2"):
        load_task("sst2")


def test_generated_corpus_comes_without_warning_when_asked_for(caplog):
    data = load_task("sst2", source="builtin", train_limit=200, evaluation_limit=50)
    assert (data.name, data.origin) == (STAND_IN, "synthetic")
    assert (len(data.train), len(data.holdout), len(data.validation)) == (180, 20, 50)
    assert not caplog.records


@pytest.mark.parametrize("name", ["cola", "imdb"])
def test_task_without_stand_in_says_where_to_get_it(name):
    with pytest.raises(
        DatasetUnavailableError, match=f"{name} is not on this computer: the hub cannot be reached.*path="
    ):
        load_task(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "local"}, "no path and no folder sst2 under METAS_DATA"),
        ({"source": "kaggle"}, "Unknown source 'kaggle'"),
        ({"source": "builtin", "path": "x"}, "contradicts path=x"),
        ({"path": "no/such/place"}, "no file or folder no/such/place"),
    ],
)
def test_source_that_makes_no_sense_is_one_sentence(arguments, message):
    with pytest.raises(DatasetError, match=message):
        load_task("sst2", **arguments)


def test_environment_that_is_no_folder_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("METAS_DATA", str(tmp_path / "typo"))
    with pytest.raises(DatasetError, match="METAS_DATA names .*typo, which is no folder"):
        load_task("sst2")


def test_environment_with_an_incomplete_folder_is_no_reason_to_generate(monkeypatch, tmp_path, write_parquet):
    write_parquet(tmp_path / "sst2/train.parquet")
    monkeypatch.setenv("METAS_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match="no splits of sst2: .* holds train.parquet"):
        load_task("sst2")


def test_generated_corpus_exists_for_sst2_only():
    with pytest.raises(DatasetError, match="no generated examples for cola"):
        load_task("cola", source="builtin")


def test_hub_cache_is_read_without_a_network(tmp_path, monkeypatch, write_parquet):
    folder = tmp_path / "cache" / "datasets--stanfordnlp--sst2"
    write_parquet(folder / "snapshots/abc/data/train-00000-of-00002.parquet", ["a", "b"], [0, 1])
    write_parquet(folder / "snapshots/abc/data/train-00001-of-00002.parquet", ["c", "d"], [0, 1])
    write_parquet(folder / "snapshots/abc/data/validation-00000-of-00001.parquet", ["e"], [1])
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    data = load_task("sst2")
    assert (data.origin, data.source) == ("real", "huggingface:stanfordnlp/sst2")
    assert sorted(data.train.texts + data.holdout.texts) == ["a", "b", "c", "d"]
    assert data.validation.texts == ("e",)


def test_download_takes_the_splits_of_the_datasets_library(monkeypatch):
    import datasets

    part = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    monkeypatch.setattr(hub, "_ask", lambda source: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda repo, config: datasets.DatasetDict(train=part, test=part))
    splits = hub.download(HubSource("some/where"), ("validation", "test"))
    assert splits == SplitColumns(part.to_dict(), part.to_dict(), "huggingface:some/where")
    with pytest.raises(DatasetUnavailableError, match="has the splits train, test; 'train' and one of 'validation'"):
        hub.download(HubSource("some/where"), ("validation",))


def _port_of_a_mute_server() -> tuple[socket.socket, int]:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(8)
    return server, server.getsockname()[1]


def test_hub_that_accepts_but_never_answers_costs_under_five_seconds(monkeypatch):
    server, port = _port_of_a_mute_server()
    monkeypatch.setattr(hub, "hub_is_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "*")
    start = time.monotonic()
    assert load_task("sst2").name == STAND_IN
    assert time.monotonic() - start < 4
    server.close()


@pytest.mark.parametrize(
    ("status", "headers", "error", "message"),
    [
        (401, {}, DatasetUnavailableError, "knows no public data set some/where"),
        (404, {"X-Error-Code": "RepoNotFound"}, DatasetUnavailableError, "knows no public data set"),
        (404, {}, hub.HubSilentError, "status 404"),
        (503, {}, hub.HubSilentError, "status 503"),
        (200, {"Content-Type": "text/html"}, hub.HubSilentError, "something else answers"),
    ],
)
def test_hub_is_told_apart_from_gateways(monkeypatch, status, headers, error, message):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(hub, "hub_is_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(error, match=message) as caught:
        hub.download(HubSource("some/where"), ("validation",))
    assert type(caught.value) is error
    server.shutdown()
    server.server_close()


REAL = os.environ.get("METAS_DATA")


@pytest.mark.skipif(not REAL, reason="METAS_DATA is not set: no copy of the real SST-2 and CoLA")
@pytest.mark.parametrize(
    ("name", "train", "validation", "chance"),
    [("sst2", 67_349, 872, 444 / 872), ("cola", 8_551, 1_043, 0.0)],
)
def test_real_data_have_the_counts_of_glue(monkeypatch, name, train, validation, chance):
    monkeypatch.setenv("METAS_DATA", REAL)
    data = load_task(name)
    assert (len(data.train) + len(data.holdout), len(data.validation)) == (train, validation)
    assert len(data.holdout) == min(1000, round(train / 10))
    assert data.chance_quality == pytest.approx(chance)
    assert not {t.casefold() for t in data.train.texts} & {t.casefold() for t in data.holdout.texts}


@pytest.mark.skipif(not REAL, reason="METAS_DATA is not set: no copy of the real SST-2")
def test_real_sst2_is_the_same_from_parquet_and_from_glue_files():
    parquet = load_task("sst2", path=f"{REAL}/sst2")
    assert load_task("sst2", path=f"{REAL}/sst2/glue_tsv").train == parquet.train


@pytest.mark.skipif(not REAL, reason="METAS_DATA is not set: no copy of the real GSM8K and Natural-Instructions")
@pytest.mark.parametrize(("name", "train", "evaluation"), [("gsm8k", 7473, 1319), ("natural_instructions", None, None)])
def test_real_prompts_have_answers_that_their_own_metric_takes_for_right(monkeypatch, name, train, evaluation):
    if not (Path(REAL) / name).is_dir():
        pytest.skip(f"METAS_DATA has no {name}")
    monkeypatch.setenv("METAS_DATA", REAL)
    data = load_task(name)
    if train is not None:
        assert (len(data.train) + len(data.holdout), len(data.validation)) == (train, evaluation)
    for part in (data.train, data.holdout, data.validation):
        said = replies.as_array([accepted[0] for accepted in part.references])
        assert TASKS[name].marks(said, part.references).min() == 1.0
    assert data.chance_quality < 0.1
