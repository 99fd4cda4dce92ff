"""Which ONNX file is the fastest in plain ONNX Runtime on a processor, and whose speed follows size?

    python benchmarks/compact/onnx_variants.py     # about two minutes, one thread; after speed.py --prepare

Writes docs/benchmarks/compact_onnx.json: the dense MiniLM and the smallest member of `members.json`, exported in three
ways, in float32 and int8, timed round-robin. `sum before norm` is what `metas export` writes; `add before norm` leaves
ONNX Runtime free to fuse an addition with the norm behind it; `attention operator` keeps attention in one node, which
needs opset 23.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from speed import COMMAND, LENGTH, ROOT, SCRATCH, fraction, subnets

from metas_peft.backbones import shape_of
from metas_peft.backbones.load import load_backbone
from metas_peft.backbones.store import load
from metas_peft.core.files import write_json
from metas_peft.core.subnet import Subnet
from metas_peft.core.units import MS_PER_S
from metas_peft.devices import TimingRules
from metas_peft.devices.profiling import describe_machine, describe_software
from metas_peft.devices.protocol import Clock, time_flight
from metas_peft.export.onnx import open_session
from metas_peft.export.quiet import quiet
from metas_peft.export.traceable import Logits

RESULT = ROOT / "docs" / "benchmarks" / "compact_onnx.json"
# Name -> attention implementation, opset, whether additions before norms become sums.
VARIANTS = {
    "sum before norm": ("eager", 20, True),
    "add before norm": ("eager", 20, False),
    "attention operator": ("sdpa", 23, True),
}
BATCHES = (1, 8)


def export(model: Any, variant: str, path: Path) -> None:
    """Write a variant in float32 and, beside it, in int8."""
    implementation, opset, is_sum = VARIANTS[variant]
    model.set_attn_implementation(implementation)
    ids, free = torch.ones(2, 6, dtype=torch.long), dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    names = ["input_ids", "attention_mask"]
    with quiet(), torch.no_grad():
        torch.onnx.export(
            Logits(model), (ids, torch.ones_like(ids)), str(path), dynamo=True, opset_version=opset, input_names=names,
            dynamic_shapes=dict.fromkeys(names, free), external_data=False, verbose=False,
        )  # fmt: skip
    graph: Any = onnx.load(str(path))
    normed = {node.input[0] for node in graph.graph.node if node.op_type == "LayerNormalization"}
    for node in graph.graph.node:
        if is_sum and node.op_type == "Add" and node.output[0] in normed:
            node.op_type = "Sum"
    onnx.save(graph, str(path))
    del graph.graph.value_info[:]
    with quiet():
        quantize_dynamic(graph, str(path.with_suffix(".int8.onnx")), weight_type=QuantType.QInt8, per_channel=True,
                         op_types_to_quantize=["MatMul", "Gemm", "Gather"])  # fmt: skip


def main() -> None:
    """Export, time and write."""
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    shape = shape_of(load_backbone("minilm", n_labels=2).model, (), "minilm")
    small = min(subnets(shape).values(), key=lambda s: fraction(s, shape))
    models = {"dense": Subnet.dense(shape), "member": small}
    folder = SCRATCH / "variants"
    folder.mkdir(parents=True, exist_ok=True)
    for variant in VARIANTS:
        for name, subnet in models.items():
            path = folder / f"{variant.replace(' ', '-')}-{name}.onnx"
            if not path.exists():
                export(load(SCRATCH / "models" / subnet.key), variant, path)
    rows = []
    rules = TimingRules(tolerance=0.005, seconds_per_subject=2.5, trial_s=0.04)
    for batch in BATCHES:
        ids = np.random.default_rng(0).integers(1, 30000, (batch, LENGTH))
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        for bits, suffix in ((32, ".onnx"), (8, ".int8.onnx")):
            keys = [(variant, name) for variant in VARIANTS for name in models]
            runs = []
            for variant, name in keys:
                session = open_session(folder / f"{variant.replace(' ', '-')}-{name}{suffix}")
                runs.append(lambda session=session, feed=feed: session.run(None, feed))
            flight = time_flight(runs, 0, rules, Clock(), np.random.default_rng(0))
            ms = {key: t.wall_ratio * flight.anchor_wall_s * MS_PER_S
                  for key, t in zip(keys, flight.timings, strict=True)}  # fmt: skip
            for variant in VARIANTS:
                dense, member = ms[variant, "dense"], ms[variant, "member"]
                follows = dense / member * fraction(small, shape)
                rows.append({"variant": variant, "bits": bits, "batch_size": batch, "dense_ms": dense,
                             "member_ms": member, "speed_by_size": follows})  # fmt: skip
                print(rows[-1], flush=True)
    write_json(RESULT, {"command": COMMAND.replace("speed", "onnx_variants"), "machine": describe_machine(),
                        "software": describe_software(), "seq_len": LENGTH, "threads": 1,
                        "flops_fraction": fraction(small, shape), "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
