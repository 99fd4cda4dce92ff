"""Gradients of gates under PyTorch's fully sharded parameters (FSDP2); each process writes those it ended with.

python -m torch.distributed.run --nproc_per_node 2 sharded_gradients.py FOLDER
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from metas_peft.backbones import Layout
from metas_peft.backbones.load import without_dropout
from metas_peft.gates import GRANULARITIES, GateSet, attach
from metas_peft.testing.tiny import tiny_adapted, tiny_batch
from metas_peft.tuning.gating import average_gradients


def main(folder: Path) -> None:
    """One backward pass."""
    torch.set_num_threads(1)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    adapted, shape = tiny_adapted("llama")
    adapted = without_dropout(adapted).train()
    gates = GateSet(shape, GRANULARITIES, temperature=2.0, start=0.8, seed=1)
    attachment = attach(gates, adapted)
    if world > 1:
        torch.distributed.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (world,))
        network = adapted.get_base_model()
        for layer in Layout(network).layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(network, mesh=mesh)
        assert sum(isinstance(m, FSDPModule) for m in adapted.modules()) == shape.n_layers + 1
    batch = tiny_batch(0, batch=4)
    mine = {k: v[rank::world] for k, v in batch.items()}
    adapted(**mine).logits.pow(2).sum(-1).mean().backward()
    average_gradients(list(gates.log_alpha.values()), torch.device("cpu"))
    attachment.detach()
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for m in Layout(adapted.get_base_model()).layers[0].children()
    )
    save_file({name: a.grad for name, a in gates.log_alpha.items()}, folder / f"rank{rank}.safetensors")
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
