"""`metas export`: one member of a front as files that other programs load."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from metas_peft.cli.output import JsonOption, give, log_to_stderr, say
from metas_peft.core.errors import MetasPeftError, UsageError
from metas_peft.core.units import BYTES_PER_MB

if TYPE_CHECKING:
    from metas_peft.core.shape import BackboneShape
    from metas_peft.export.members import StoredMember

Format = Literal["hf", "peft", "onnx", "executorch"]
BITS: Mapping[str, tuple[int, ...]] = {"hf": (32, 16), "peft": (32,), "onnx": (32, 8, 4), "executorch": (32,)}


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run, or of one member.")],
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            help="hf: model files; peft: cut backbone and adapter; onnx: one ONNX file; executorch: one .pte file.",
        ),
    ],
    member: Annotated[str | None, typer.Option(help="Which member, by name or key.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: DIR/export/KEY-FORMAT.")] = None,
    bits: Annotated[
        int, typer.Option(help="Width of the weights. hf: 32, 16 (bfloat16); onnx: 32, 8 (dynamic), 4 (in blocks).")
    ] = 32,
    uniform: Annotated[
        bool, typer.Option("--uniform", help="The same heads and neurons in every layer, within the member's FLOPs.")
    ] = False,
    backbone: Annotated[
        str | None, typer.Option(help="peft, uniform: the run's backbone (name or folder), where it has moved.")
    ] = None,
    json_target: JsonOption = None,
) -> None:
    """Write one member of a front and check that it answers as the member does."""
    from metas_peft.export.members import find_member

    log_to_stderr()
    if bits not in BITS[kind]:
        raise UsageError(f"--format {kind} comes in {', '.join(map(str, BITS[kind]))} bits, not {bits}.")
    chosen = find_member(folder, member)
    with tempfile.TemporaryDirectory(prefix="metas-export-") as scratch:
        network = _network(folder, chosen, backbone) if uniform or kind == "peft" else None
        if uniform and network is not None:
            chosen = _uniform(*network, chosen, Path(scratch))
        suffix = kind if bits == 32 else f"{kind}-{bits}bit"
        target = out if out is not None else folder / "export" / f"{chosen.key}-{suffix}"
        facts = _write(kind, chosen, network, target, bits)
    result = {"member": chosen.name, "key": chosen.key, "format": kind, "bits": bits, **facts}
    if give(result, json_target):
        _show(result)


def _write(
    kind: Format, chosen: "StoredMember", network: "tuple[Any, BackboneShape] | None", target: Path, bits: int
) -> dict[str, Any]:
    """Export in one format; JSON facts."""
    if kind == "hf":
        from metas_peft.export.checkpoint import export_checkpoint

        done: Any = export_checkpoint(chosen, target, bits=bits)
    elif kind == "peft":
        from metas_peft.export.adapter import export_adapter

        assert network is not None, "it was opened for this format"
        done = export_adapter(*network, chosen, target)
    else:
        from metas_peft.export.graphs import export_graph

        done = export_graph(kind, chosen, target, bits=bits)
    facts = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(done).items() if k != "agreement"}
    return facts | {
        "logit_gap": done.agreement.gap,
        "largest_logit": done.agreement.scale,
        "same_choice": done.agreement.same_choice,
    }


def _show(result: Mapping[str, Any]) -> None:
    for name, value in result.items():
        if name.endswith("bytes"):
            shown = f"{value / BYTES_PER_MB:.1f} MB"
        else:
            shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        typer.echo(f"{name.removesuffix('_bytes').replace('_', ' '):14} {shown}")


def _network(folder: Path, chosen: "StoredMember", backbone: str | None) -> "tuple[Any, BackboneShape]":
    """The run's whole network with its adapter, in its order of importance, and its shape."""
    import transformers

    from metas_peft.backbones.load import load_backbone
    from metas_peft.backbones.store import read_plan
    from metas_peft.conf.compose import load as load_config
    from metas_peft.export.adapter import ordered_network

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder} is no run's folder (config.yaml is missing); this needs one, such as outputs/demo.")
    if not (folder / "adapter").is_dir():
        raise MetasPeftError(f"{folder} holds no adapter (its method trains all weights). Use --format hf or onnx.")
    config = load_config(folder / "config.yaml")
    plan = read_plan(chosen.folder)
    # A language model's config names classes too, which it does not have.
    is_classifier = plan["architecture"].endswith("ForSequenceClassification")
    labels = (plan["config"].get("id2label") or {0: "", 1: ""}) if is_classifier else {}
    loaded = load_backbone(
        backbone or config.model.name, n_labels=len(labels) or None, weights=config.model.weights,
        seed=config.training.seed,
    )  # fmt: skip
    if labels:
        loaded.model.config.id2label = {int(i): str(name) for i, name in labels.items()}
    return ordered_network(loaded.model.eval(), folder / "adapter")


def _uniform(network: Any, shape: "BackboneShape", chosen: "StoredMember", scratch: Path) -> "StoredMember":
    """The uniform member beside a free one, cut now; its weights were never trained in this shape alone."""
    import copy

    from metas_peft.backbones import compact
    from metas_peft.backbones.store import save_compact
    from metas_peft.export.members import StoredMember, copy_tokenizer
    from metas_peft.export.uniform import uniform

    subnet = uniform(chosen.subnet, shape)
    name = f"{chosen.name}, uniform"
    save_compact(compact(network, shape, subnet), copy.deepcopy(network.config), subnet, scratch, {"name": name})
    copy_tokenizer(chosen.folder, scratch)
    say("A uniform member is not one of the front: its quality was not evaluated.")
    return StoredMember(subnet.key, name, scratch, subnet)
