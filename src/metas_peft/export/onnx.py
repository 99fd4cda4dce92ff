"""ONNX files of compact models: any batch size and length, checked in ONNX Runtime against the model.

A file takes `input_ids` and `attention_mask` (batch, length; int64) and gives `logits`; a language model's are those of
every position, without a cache. Weights are float32, int8 (dynamic: activations are quantised as they come, matrices
and embeddings are stored in 8 bits) or int4 (weight-only, in blocks). Names of classes travel in the file's metadata.
"""

import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metas_peft.core.errors import ExportError
from metas_peft.core.files import replacing
from metas_peft.export.quiet import quiet
from metas_peft.export.traceable import Logits, traceable, with_plain_maps
from metas_peft.export.verify import Agreement, Batch, check, compare

INPUTS, OUTPUT = ("input_ids", "attention_mask"), "logits"
BITS = (32, 8, 4)
BLOCK = 32  # weights of an int4 matrix that share a scale
UNTOUCHED = 0.1  # of the weights may stay in float32 in a file of fewer bits: biases, norms
LARGEST_FILE = 1_900_000_000  # bytes; above, protobuf needs the weights beside the graph
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXTRA = "pip install 'metas-peft[onnx]'"
# A language model gives logits for every token; the last one of a text tells what comes next.
HOW_TO_WRITE = """\
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({folder!r})
session = onnxruntime.InferenceSession({file!r})
texts = tokenizer(["a text", "another one"], padding=True, padding_side="right", return_tensors="np")
(logits,) = session.run(["logits"], {{name: texts[name] for name in ("input_ids", "attention_mask")}})
last = texts["attention_mask"].sum(axis=1) - 1
print(tokenizer.batch_decode([[row[end].argmax()] for row, end in zip(logits, last)]))
"""
HOW_TO_RUN = """\
import json

import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({folder!r})
session = onnxruntime.InferenceSession({file!r})
labels = json.loads(session.get_modelmeta().custom_metadata_map["id2label"])
texts = tokenizer(["a text", "another one"], padding=True, return_tensors="np")
(logits,) = session.run(["logits"], {{name: texts[name] for name in ("input_ids", "attention_mask")}})
print([labels[str(i)] for i in logits.argmax(-1)])
"""


@dataclass(frozen=True)
class OnnxFile:
    """One exported file.

    Attributes:
        path: Where it is.
        bits: Width of its weights.
        size_bytes: Its size.
        agreement: Its answers against the model's.
    """

    path: Path
    bits: int
    size_bytes: int
    agreement: Agreement


def export_onnx(model: Any, path: Path, *, bits: int = 32) -> OnnxFile:
    """Write a model as an ONNX file and check it.

    Args:
        model: Plain `transformers` model on the CPU, in evaluation mode.
        path: Where to; replaced whole.
        bits: 32, 8 or 4.

    Raises:
        ExportError: The packages are missing, the architecture cannot be exported, or the file answers differently.
    """
    _require()
    if bits not in BITS:
        raise ExportError(f"ONNX files come in {', '.join(map(str, BITS))} bits, not {bits}.")
    size = sum(p.numel() * 4 for p in model.parameters())
    if size > LARGEST_FILE:
        raise ExportError(
            f"The model has {size / 1e9:.1f} GB of weights, an ONNX file holds {LARGEST_FILE / 1e9:.1f}. "
            "Export a smaller member, or use --format hf."
        )
    with replacing(path) as temporary:
        _export(with_plain_maps(model), temporary)
        if bits != 32:
            quantise(temporary, temporary, bits)
        session = open_session(temporary)
        agreement = check(compare(model, lambda batch: run(session, batch)), f"The ONNX file ({bits} bits)", bits)
    return OnnxFile(path, bits, path.stat().st_size, agreement)


def quantise(source: Path, target: Path, bits: int) -> None:
    """Write a float32 file's graph with its weights in fewer bits.

    Args:
        source: File that `export_onnx` wrote in 32 bits.
        target: Where to; may be the source.
        bits: 8 or 4.

    Raises:
        ExportError: Much of the model is stored in a form that the quantiser passes over.
    """
    _require()
    import onnx

    graph: Any = onnx.load(str(source))
    # The shapes that the exporter noted contradict those that the quantiser infers.
    del graph.graph.value_info[:]
    with replacing(target) as temporary, quiet():
        if bits == 8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(graph, str(temporary), weight_type=QuantType.QInt8, per_channel=True)
        else:
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            axes = (("MatMul", 0), ("Gather", 1))
            quantiser: Any = MatMulNBitsQuantizer(
                graph, block_size=BLOCK, is_symmetric=True, op_types_to_quantize=("MatMul", "Gather"), quant_axes=axes
            )
            quantiser.process()
            quantiser.model.save_model_to_file(str(temporary), use_external_data_format=False)
        _check_share(source, temporary, bits)


def _check_share(source: Path, target: Path, bits: int) -> None:
    """Refuse a file of which more than a tenth would be stored as it was: it is not what its name says."""
    before, after = _floats(source), _floats(target)
    scales = before / BLOCK if bits == 4 else 0
    if after - scales > UNTOUCHED * before:
        raise ExportError(
            f"Only {1 - (after - scales) / before:.0%} of the model's weights can be stored in {bits} bits: ONNX "
            "Runtime's quantiser passes over fused experts. Export it in 32 bits."
        )


def _floats(path: Path) -> int:
    """Values that a file stores in float32."""
    import onnx

    tensors = onnx.load(str(path)).graph.initializer
    return sum(math.prod(t.dims) for t in tensors if t.data_type == onnx.TensorProto.FLOAT)


def open_session(path: Path, threads: int = 1) -> Any:
    """An ONNX Runtime session on the CPU."""
    _require()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: Any, batch: Batch) -> np.ndarray:
    """Logits of a batch."""
    return session.run([OUTPUT], {name: batch[name].numpy() for name in INPUTS})[0]


def missing_packages() -> list[str]:
    """Packages that ONNX needs and that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def _export(model: Any, path: Path) -> None:
    ids = torch.ones(2, 6, dtype=torch.long)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with quiet(), traceable(model), torch.no_grad():
            torch.onnx.export(
                Logits(model), (ids, torch.ones_like(ids)), str(path), dynamo=True, input_names=list(INPUTS),
                output_names=[OUTPUT], dynamic_shapes=dict.fromkeys(INPUTS, free), external_data=False, verbose=False,
            )  # fmt: skip
    # The exporter raises many kinds, with pages of text.
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error.__cause__ or error).split())[:200]}"
        if "complex" in str(error):
            reason = "it computes positions with complex numbers, which the exporter cannot translate"
        raise ExportError(f"{type(model).__name__} cannot be exported to ONNX ({reason}). Use --format hf.") from error
    _finish(path, model.config)


def _finish(path: Path, config: Any) -> None:
    """Write what a program needs to know besides the graph, and keep a slow kernel out of it."""
    import onnx

    graph: Any = onnx.load(str(path))
    notes = {"id2label": json.dumps(config.id2label), "vocab_size": str(config.get_text_config().vocab_size)}
    onnx.helper.set_model_props(graph, notes)
    # ONNX Runtime fuses an addition and the norm behind it into one kernel that on a processor is slower than the two
    # (docs/decisions/0006). A Sum is the same addition, which it leaves alone.
    normed = {node.input[0] for node in graph.graph.node if node.op_type == "LayerNormalization"}
    for node in graph.graph.node:
        del node.metadata_props[:]  # the exporter's stack traces, with paths of this computer
        if node.op_type == "Add" and node.output[0] in normed:
            node.op_type = "Sum"
    onnx.save(graph, str(path))


def _require() -> None:
    missing = missing_packages()
    if missing:
        raise ExportError(f"ONNX needs {', '.join(missing)}, which is not installed: {EXTRA}.")
