"""Models that this computer can run, for profiling: cut from a backbone, in a number format, by a runtime.

Costs do not depend on the values of weights, so random ones are as good as trained ones; an encoder's pass is one
forward of random tokens, a decoder's a prefill or one new token behind a cache of random ones.
"""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from metas_peft.backbones import compact, shape_of
from metas_peft.backbones.kv_cache import CACHE
from metas_peft.backbones.load import load_backbone
from metas_peft.backbones.skeleton import prefer_sdpa
from metas_peft.core.errors import ExportError, MeasurementError, UsageError
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.devices import Specimen
from metas_peft.devices.meters.registry import CPU, CUDA, ONNX, ROCM
from metas_peft.export.backends import Backend, prepare
from metas_peft.export.quiet import quiet

Pass = Callable[[], object]

DTYPES = {32: torch.float32, 16: torch.bfloat16}
FORMATS = {CPU: (32, 16, 8), ONNX: (32, 8, 4), CUDA: (32, 16), ROCM: (32, 16)}


def processor_threads() -> int:
    """Threads that torch takes by itself on this computer."""
    return torch.get_num_threads()


class LocalModels:
    """A backbone and the ways to run parts of it here.

    Args:
        backbone: Catalogue name, hub id or folder.
        runtime: `pytorch_cpu`, `onnxruntime_cpu`, `pytorch_cuda` or `pytorch_rocm`.
        weights: `random` or `pretrained`.
        threads: Processor threads; those that torch chooses if absent.
        seed: Seed of random weights.
    """

    def __init__(
        self, backbone: str, *, runtime: str, weights: str = "random", threads: int | None = None, seed: int = 0
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        self.runtime = runtime
        loaded = load_backbone(backbone, n_labels=2, weights=weights, seed=seed)
        self._network = loaded.model
        self.shape = shape_of(loaded.model, (), loaded.name)
        self._folder = tempfile.TemporaryDirectory(prefix="metas-profile-")

    def specimen(self, subnet: Subnet) -> Specimen:
        """A configuration that opens when it is measured."""
        return Specimen(subnet, self.shape, lambda workload: self._open(subnet, workload))

    def check(self, workload: Workload) -> None:
        """The runtime can run this workload.

        Raises:
            UsageError: It cannot; the message says what it can.
        """
        formats = FORMATS[self.runtime]
        if workload.param_bits not in formats:
            raise UsageError(
                f"{self.runtime} runs weights of {', '.join(map(str, formats))} bits here, not {workload.param_bits}."
            )
        if workload.adapter == "separate":
            raise UsageError("Models that are cut here carry their adapters merged; profile `separate` by simulation.")
        if workload.phase == "decode" and (not self.shape.causal or self.runtime == ONNX):
            raise UsageError(f"{self.shape.model_id} with {self.runtime} has no decoding; use --phase prefill.")

    def _open(self, subnet: Subnet, workload: Workload) -> Pass:
        if self.runtime == ONNX:
            return self._onnx_pass(subnet, workload)
        model = compact(self._network, self.shape, subnet)
        prefer_sdpa(model)
        if workload.param_bits == 8:
            model = _dynamically_quantised(model)
        else:
            model = model.to(DTYPES[workload.param_bits])
        device = "cpu" if self.runtime == CPU else "cuda"
        model = model.to(device)
        inputs = self._inputs(workload, device)
        if workload.phase == "decode":
            return _decoding(model, inputs, workload, device)

        def one_pass() -> None:
            with torch.inference_mode():
                model(**inputs)
            _wait(device)

        return one_pass

    def _inputs(self, workload: Workload, device: str) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        vocabulary = self._network.config.get_text_config().vocab_size
        ids = torch.randint(1, vocabulary, (workload.batch_size, workload.seq_len), generator=generator).to(device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _onnx_pass(self, subnet: Subnet, workload: Workload) -> Pass:
        """What `metas export` writes, exported once per configuration."""
        files = Path(self._folder.name) / subnet.key
        backend = Backend(ONNX, workload.param_bits)
        try:
            ready = prepare(
                backend, workload, lambda: compact(self._network, self.shape, subnet).eval(), files, self.threads
            )
        except ExportError as error:
            raise MeasurementError(f"Configuration {subnet.key} cannot be measured: {error}") from error
        return ready.run


def _dynamically_quantised(model: Any) -> Any:
    with quiet():
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)


def _decoding(model: Any, inputs: dict[str, torch.Tensor], workload: Workload, device: str) -> Pass:
    """One new token per sequence behind a cache, which is as it was after each pass."""
    if workload.context_len < 1:
        raise UsageError("Decoding needs tokens before the new one: --context-len.")
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(1)
    before = torch.randint(1, vocabulary, (workload.batch_size, workload.context_len), generator=generator).to(device)
    cache = transformers.DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=before, use_cache=True, **{CACHE: cache})
    # A step makes new tensors, so that the old ones are the cache as it was; cutting back would not bring back what a
    # sliding window has lost.
    filled = [dict(vars(layer)) for layer in cache.layers]
    mask = torch.ones(workload.batch_size, workload.context_len + workload.seq_len, dtype=torch.long, device=device)

    def one_pass() -> None:
        with torch.inference_mode():
            model(input_ids=inputs["input_ids"], attention_mask=mask, use_cache=True, **{CACHE: cache})
        for layer, state in zip(cache.layers, filled, strict=True):
            vars(layer).update(state)
        _wait(device)

    return one_pass


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
