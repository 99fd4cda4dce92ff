"""Trains the stages of a run in as many processes as the launcher starts; each writes what it ended with.

python -m torch.distributed.run --nproc_per_node 2 stages.py FOLDER ACCUMULATION
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from metas_peft.core.cost import Cost
from metas_peft.testing.tuning import tiny_context
from metas_peft.tuning.methods.gates import train_gates
from metas_peft.tuning.methods.nested import nested_front
from metas_peft.tuning.pricing import Price
from metas_peft.tuning.workers import joined


def main(folder: Path, accumulation: int) -> None:
    """Train and write."""
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", "0"))
    with joined():
        context = tiny_context(texts=64, accumulation=accumulation)
        context.train_dense()
        found = {f"dense.{name}": tensor for name, tensor in context.checkpoint().weights.items()}
        # The others see other texts, and would decide otherwise.
        if rank:
            context.data.ids[:] = context.data.ids[::-1]
        price = Price.on(context.cost_model, Cost.uniform(1.0), context.shape)
        front = nested_front(context, price)
        found |= {f"joint.{name}": tensor for name, tensor in context.checkpoint().weights.items()}
        found["heads"] = context.head_order
        found["path"] = torch.tensor([list(s.key.encode()) for s in front.path])
        found |= train_gates(context, price, ("layer", "head", "ffn_block")).tensors
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / f"rank{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
