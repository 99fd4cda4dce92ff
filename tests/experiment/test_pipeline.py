"""What a run says when it ends early."""

import pytest
import torch

from metas_peft.core.errors import MetasPeftError, OutOfMemoryError
from metas_peft.experiment import pipeline


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), MemoryError()]
)
def test_want_of_memory_is_told_in_a_sentence(monkeypatch, tmp_path, error):
    def full(*args):
        raise error

    monkeypatch.setattr(pipeline.RunState, "open", full)
    with pytest.raises(OutOfMemoryError, match=r"more memory than there is: .*Lower dataset\.batch_size") as caught:
        pipeline.run(None, tmp_path)
    assert isinstance(caught.value, MetasPeftError)
    assert caught.value.__cause__ is error
