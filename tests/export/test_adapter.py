"""Members as PEFT adapters on their cut backbone."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from metas_peft.backbones.load import load_backbone
from metas_peft.backbones.store import load
from metas_peft.core.errors import CheckpointError, ExportError
from metas_peft.export.adapter import export_adapter, ordered_network
from metas_peft.export.members import find_member
from metas_peft.testing.tiny import tiny_batch


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.fixture(scope="module")
def network(front):
    backbone = load_backbone(str(front() / "backbone"), n_labels=2).model
    return ordered_network(backbone.eval(), front() / "adapter")


def test_network_is_the_runs_own(front, network):
    """The dense member was cut from the same network before it went to disk."""
    dense = load(find_member(front() / "dense", None).folder)
    batch = tiny_batch(vocabulary=12)
    assert torch.allclose(logits(network[0], batch), logits(dense, batch), atol=1e-5)
    assert [site.rank for site in network[1].sites] == [3] * 6


def test_exported_adapter_in_plain_peft_answers_as_the_member(front, network, tmp_path):
    member = find_member(front(), "30 %")
    done = export_adapter(*network, member, tmp_path / "out")
    assert done.agreement.gap < 1e-5
    assert done.adapter_bytes < done.base_bytes
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("a fine film")["input_ids"]
    # The README's own lines, in a process that knows nothing else.
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    script = f"{code}\nimport torch\nids = torch.arange(1, 9)[None]\nprint(model.eval()(input_ids=ids).logits.tolist())"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    expected = logits(load(member.folder), {"input_ids": torch.arange(1, 9)[None]})
    assert torch.allclose(torch.tensor(json.loads(found.stdout)), expected, atol=1e-5)


def test_member_that_was_trained_further_is_refused(front, network, tmp_path):
    import shutil

    from metas_peft.backbones.store import backbone_of, read_plan, save_compact

    folder = shutil.copytree(find_member(front(), "60 %").folder, tmp_path / "member")
    member, model = find_member(folder, None), load(folder)
    with torch.no_grad():
        weight = model.bert.encoder.layer[0].output.dense.weight
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    save_compact(model, backbone_of(read_plan(folder))[1], member.subnet, folder, {})
    with pytest.raises(ExportError, match="trained further on their own.*--format hf"):
        export_adapter(*network, member, tmp_path / "out")


def test_order_of_another_backbone_is_refused(front, tmp_path):
    import shutil

    folder = shutil.copytree(front() / "adapter", tmp_path / "adapter")
    order = load_file(folder / "order.safetensors")
    save_file({"heads": order["heads"][:2].contiguous(), "neurons": order["neurons"]}, folder / "order.safetensors")
    with pytest.raises(CheckpointError, match="the backbone has"):
        ordered_network(load_backbone(str(front() / "backbone"), n_labels=2).model, folder)
