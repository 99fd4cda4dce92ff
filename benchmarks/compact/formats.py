"""What a member weighs in each number format, and whether it still gives the same answers.

    make demo FAST=1 && python benchmarks/compact/formats.py     # about two minutes, one thread

Writes docs/benchmarks/compact_formats.json: bytes of the dense model and two members of a run in every format that this
computer has, their accuracy on the run's evaluation texts, and the fraction of texts answered as in float32.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from metas_peft.backbones.load import load_backbone
from metas_peft.backbones.store import load
from metas_peft.conf.compose import load as load_config
from metas_peft.core.errors import ExportError
from metas_peft.core.files import write_json
from metas_peft.devices.profiling import describe_machine, describe_software
from metas_peft.export.backends import BACKENDS, ONNX
from metas_peft.export.members import StoredMember, dense_of, find_member
from metas_peft.export.onnx import export_onnx, open_session, quantise, run
from metas_peft.export.precision import in_bits, stored_bytes
from metas_peft.export.verify import Runner, runner
from metas_peft.tasks import load_task

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs" / "benchmarks" / "compact_formats.json"
MEMBERS = ("50 %", "26 %")
BATCH = 32


def open_in(name: str, member: StoredMember, scratch: Path) -> tuple[Runner, int]:
    """What answers in a format, and the bytes of its weights."""
    backend, model = BACKENDS[name], load(member.folder)
    if backend.runtime != ONNX:
        smaller = in_bits(model, backend.bits)
        return runner(smaller), stored_bytes(smaller)
    plain, path = scratch / f"{member.key}.onnx", scratch / f"{member.key}-{backend.bits}.onnx"
    if not plain.exists():
        export_onnx(model, plain)
    if backend.bits != 32:
        quantise(plain, path, backend.bits)
    path = path if backend.bits != 32 else plain
    session = open_session(path)
    return lambda batch: run(session, batch), path.stat().st_size


def main() -> None:
    """Ask every format the same texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "outputs" / "demo_fast", help="folder of a finished run")
    folder = parser.parse_args().run
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    config = load_config(folder / "config.yaml")
    data = load_task(config.dataset.name, evaluation_limit=config.dataset.evaluation_limit, seed=config.training.seed)
    texts, labels = list(data.validation.texts), np.array(data.validation.labels)
    tokenizer = load_backbone(config.model.name, n_labels=len(data.label_names)).tokenizer
    whole = dense_of(folder)
    assert whole is not None, "a finished run has its dense model"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for member in (whole, *(find_member(folder, name) for name in MEMBERS)):
            reference: np.ndarray | None = None
            for name in BACKENDS:
                try:
                    answer, size = open_in(name, member, Path(scratch))
                except ExportError as error:
                    print(f"{name} is left out: {error}")
                    continue
                logits = []
                for start in range(0, len(texts), BATCH):
                    batch = tokenizer(texts[start : start + BATCH], padding=True, truncation=True,
                                      max_length=config.dataset.max_length, return_tensors="pt")  # fmt: skip
                    logits.append(answer({k: batch[k] for k in ("input_ids", "attention_mask")}))
                found = np.concatenate(logits).argmax(-1)
                reference = found if reference is None else reference
                rows.append(
                    {
                        "member": member.name,
                        "backend": name,
                        "bits": BACKENDS[name].bits,
                        "size_bytes": size,
                        "accuracy": float((found == labels).mean()),
                        "same_answer": float((found == reference).mean()),
                    }
                )
                print(rows[-1], flush=True)
    write_json(RESULT, {"command": "make demo FAST=1 && python benchmarks/compact/formats.py", "run": folder.name,
                        "task": config.dataset.name, "task_origin": data.origin, "texts": len(texts),
                        "machine": describe_machine(), "software": describe_software(), "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
