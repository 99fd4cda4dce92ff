"""What runs a model here, in how many bits: each backend turns a compact model into a function that runs one pass."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metas_peft.core.errors import UsageError
from metas_peft.core.workload import Workload
from metas_peft.export.onnx import export_onnx, missing_packages, open_session, quantise
from metas_peft.export.precision import in_bits, stored_bytes

TORCH, ONNX = "pytorch_cpu", "onnxruntime_cpu"


@dataclass(frozen=True)
class Backend:
    """What runs a model, and in how many bits its weights are.

    Attributes:
        runtime: The device layer's name of the runtime.
        bits: Width of the weights.
    """

    runtime: str
    bits: int


BACKENDS = {
    "torch": Backend(TORCH, 32),
    "torch-bf16": Backend(TORCH, 16),
    "torch-int8": Backend(TORCH, 8),
    "onnx": Backend(ONNX, 32),
    "onnx-int8": Backend(ONNX, 8),
    "onnx-int4": Backend(ONNX, 4),
}


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to run.

    Attributes:
        run: Runs one pass and returns when it has ended.
        size_bytes: Bytes of its weights in this backend.
    """

    run: Callable[[], object]
    size_bytes: int


def usual_backends() -> list[str]:
    """What is benched where nothing is asked for: torch, and ONNX Runtime where it is installed."""
    return ["torch"] if missing_packages() else ["torch", "onnx", "onnx-int8"]


def prepare(backend: Backend, workload: Workload, open_model: Callable[[], Any], files: Path, threads: int) -> Prepared:
    """Make a model ready to run.

    Args:
        backend: What is to run it.
        workload: What one pass processes.
        open_model: Gives the compact model.
        files: Where its ONNX files are kept, without bits and suffix; a file that is there is used.
        threads: Processor threads.

    Raises:
        ExportError: The backend is not installed, or cannot run this model.
        UsageError: A workload that is not a whole input.
    """
    if workload.phase != "prefill":
        raise UsageError("Passes of a whole input are timed here; decoding is measured by `metas profile`.")
    if backend.runtime == ONNX:
        path = _onnx_file(open_model, files, backend.bits)
        session = open_session(path, threads)
        vocabulary = int(session.get_modelmeta().custom_metadata_map["vocab_size"])
        feed = {name: tensor.numpy() for name, tensor in _inputs(vocabulary, workload).items()}
        return Prepared(lambda: session.run(None, feed), path.stat().st_size)
    model = in_bits(open_model(), backend.bits)
    inputs = _inputs(model.config.get_text_config().vocab_size, workload)

    def one_pass() -> None:
        with torch.inference_mode():
            model(**inputs)

    return Prepared(one_pass, stored_bytes(model))


def _onnx_file(open_model: Callable[[], Any], files: Path, bits: int) -> Path:
    plain, wanted = (files.with_name(f"{files.name}-{b}.onnx") for b in (32, bits))
    if not plain.exists():
        export_onnx(open_model(), plain)
    if not wanted.exists():
        quantise(plain, wanted, bits)
    return wanted


def _inputs(vocabulary: int, workload: Workload) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocabulary, (workload.batch_size, workload.seq_len), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
