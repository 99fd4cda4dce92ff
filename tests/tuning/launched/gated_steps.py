"""Trains gates and adapters in as many processes as the launcher starts; each writes what it ended with.

    python -m torch.distributed.run --nproc_per_node 2 gated_steps.py FOLDER BATCH PER_PROCESS [KEY=VALUE ...]

Further arguments of the Trainer come as JSON, and `resume`, the folder of a checkpoint.
"""

import json
import os
import sys
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from metas_peft.backbones.load import without_dropout
from metas_peft.core.cost import Cost
from metas_peft.gates import GateSet, attach
from metas_peft.testing.tiny import tiny_model
from metas_peft.testing.tuning import tiny_cost_model
from metas_peft.tuning.gating import GateCallback
from metas_peft.tuning.pricing import Price

STEPS = 6


class Texts(torch.utils.data.Dataset):
    """Random texts of equal length; the label is the parity of a token."""

    ids = torch.randint(2, 97, (64, 7), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[0] % 2}


def main(folder: Path, batch: int, more: dict) -> None:
    """Train and write."""
    torch.set_num_threads(1)
    rank, checkpoint = int(os.environ.get("RANK", "0")), more.pop("resume", None)
    transformers.set_seed(1)
    config = LoraConfig(r=3, target_modules="all-linear", task_type="SEQ_CLS")
    model = get_peft_model(without_dropout(tiny_model(more.pop("family", "bert"))), config)
    # Each process starts from samples of its own: they must be brought together.
    gates = GateSet.of(model, ("layer", "head", "rank"), seed=rank)
    usual = {
        "max_steps": STEPS, "per_device_train_batch_size": batch, "learning_rate": 5e-3, "logging_steps": 2, "seed": 3,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False,
        "max_grad_norm": 0.0,
    }  # fmt: skip
    args = transformers.TrainingArguments(output_dir=str(folder / "trainer"), **{**usual, **more})
    trainer = transformers.Trainer(model, args, train_dataset=Texts())
    trainer.model_accepts_loss_kwargs = False  # a classifier's loss is a mean already
    price = Price.on(tiny_cost_model(gates.shape), Cost.uniform(1.0), gates.shape)
    trainer.add_callback(GateCallback(gates, trainer, learning_rate=0.1, price=price, sparsity=1e-3,
                                      checkpoint=checkpoint))  # fmt: skip
    with attach(gates, model):
        trainer.train(resume_from_checkpoint=checkpoint)
    found = {f"gate.{name}": a.detach() for name, a in gates.log_alpha.items()}
    found["generator"] = gates.generator.get_state()
    wrapped = [type(m).__name__ for m in trainer.model_wrapped.modules()]
    shards = sum(name.startswith(("FSDP", "FullyShardedDataParallel")) for name in wrapped)
    if not shards:
        found |= {n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad}
    save_file(found, folder / f"rank{rank}.safetensors")
    told = [row["gates/moved"] for row in trainer.state.log_history if "gates/moved" in row]
    (folder / f"rank{rank}.json").write_text(json.dumps({"world": args.world_size, "moved": told, "shards": shards}))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
