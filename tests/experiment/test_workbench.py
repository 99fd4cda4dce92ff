"""What a run file says against what the backbone is."""

import pytest
import torch

from metas_peft.core.errors import DatasetUnavailableError, RunFileError
from metas_peft.core.workload import Workload
from metas_peft.experiment.state import RunState
from metas_peft.experiment.workbench import Workbench, longest_sequence
from metas_peft.testing.tiny import tiny_model


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden_size=64", "model.hidden_size is 64, but .* has 32"),
        ("model.num_layers=12", "model.num_layers is 12, but .* has 3"),
        ("dataset.max_length=65", "dataset.max_length is 65, but .* reads at most 64 tokens"),
        ("evaluation.seq_len=100", "evaluation.seq_len is 100, but .* reads at most 64 tokens"),
    ],
)
def test_key_that_contradicts_the_backbone_is_refused(settings, override, message):
    with pytest.raises(RunFileError, match=message):
        Workbench.load(settings(override))


@pytest.mark.parametrize(("family", "tokens"), [("bert", 40), ("roberta", 38), ("gpt2", 64), ("llama", None)])
def test_longest_sequence_is_the_longest_that_the_model_reads(family, tokens):
    model = tiny_model(family)
    assert longest_sequence(model) == tokens
    if tokens is None:
        return
    ids = torch.full((1, tokens), 5)
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()
    ids = torch.full((1, tokens + 1), 5)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_family_without_a_fused_kernel_for_attention_is_measured_all_the_same(settings):
    bench = Workbench.load(settings())
    one_pass = bench._runner(tiny_model("gpt-oss", language_model=True), Workload(seq_len=8))
    one_pass()


def test_bench_has_what_the_run_file_says(settings):
    bench = Workbench.load(settings("evaluation.seq_len=20", "evaluation.batch_size=4", "model.peft.r=5"))
    assert bench.workload == Workload(batch_size=4, seq_len=20)
    assert {site.rank for site in bench.shape.sites} == {5}
    assert len(bench.train) == 81  # 90 less a tenth that is held out
    assert len(bench.validation) == 40
    assert max(map(len, bench.train.ids)) <= 24
    assert not set(bench.task.train.texts) & (set(bench.task.validation.texts) | set(bench.task.holdout.texts))
    assert bench.collator.length is None


def test_configuration_of_a_repository_reaches_the_data(settings):
    with pytest.raises(DatasetUnavailableError, match="me/films/short is not on this computer"):
        Workbench.load(settings("dataset.name=me/films", "dataset.source=null", "dataset.subset=short"))


def test_notice_of_a_local_copy_is_among_those_of_the_run(settings, tmp_path, monkeypatch):
    (tmp_path / "sst2").mkdir()
    for split in ("train", "validation"):
        lines = "".join(f"text {i},{i % 2}\n" for i in range(40))
        (tmp_path / "sst2" / f"{split}.csv").write_text(f"sentence,label\n{lines}")
    monkeypatch.setenv("METAS_DATA", str(tmp_path))
    config = settings("dataset.name=sst2", "dataset.source=huggingface:stanfordnlp/sst2")
    notes = RunState.open(config, tmp_path / "run", None, progress=False).notes
    assert any("copy of sst2 under METAS_DATA was read" in note for note in notes)


def test_weights_survive_the_way_to_disk_bit_for_bit(settings, tmp_path):
    bench = Workbench.load(settings())
    with torch.no_grad():
        for parameter in bench.adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    trained = {n: p.clone() for n, p in bench.adapted.named_parameters()}
    bench.save_trained(tmp_path / "trained.safetensors")
    fresh = Workbench.load(settings())
    fresh.load_trained(tmp_path / "trained.safetensors")
    assert all(torch.equal(p, trained[n]) for n, p in fresh.adapted.named_parameters())
