"""ExecuTorch files answer as their model, or say why there is none."""

import pytest

from metas_peft.backbones import compact, shape_of
from metas_peft.core.errors import ExportError
from metas_peft.export import executorch as exporting
from metas_peft.export.executorch import export_executorch
from metas_peft.testing.tiny import random_subnet, tiny_model


def small(family, **changes):
    model = tiny_model(family, **changes)
    shape = shape_of(model)
    return compact(model, shape, random_subnet(shape, 3))


def test_absent_package_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"need executorch, .*pip install 'metas-peft\[executorch\]'.*--format onnx"):
        export_executorch(None, tmp_path / "model.pte")


@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(f, marks=pytest.mark.slow) for f in ("roberta", "deberta", "gpt2", "llama"))]
)
def test_file_answers_as_the_model(family, tmp_path):
    pytest.importorskip("executorch", reason="the package executorch is not installed")
    done = export_executorch(small(family), tmp_path / "model.pte")
    assert done.agreement.gap < 1e-5  # of 1 to 3 sequences of 5 to 13 tokens, padded
    assert done.size_bytes == (tmp_path / "model.pte").stat().st_size
    assert done.longest == {"bert": 40, "roberta": 38, "deberta": 40, "gpt2": 64, "llama": 64}[family]


@pytest.mark.slow
def test_architecture_that_it_cannot_take_is_refused(tmp_path):
    pytest.importorskip("executorch", reason="the package executorch is not installed")
    with pytest.raises(ExportError, match="ExecuTorch"):
        export_executorch(small("modernbert"), tmp_path / "model.pte")
    assert not list(tmp_path.iterdir())
