"""What a run's folder says of its front, its controller and its texts.

A folder that `metas deploy` wrote is none: it has one model, in `model/`, which `metas_peft.load` reads.
"""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from metas_peft.control.runtime import from_json, read_information
from metas_peft.control.tree import Controller
from metas_peft.core.errors import CheckpointError
from metas_peft.core.files import read_json

RESULTS, CONTROLLER, INFORMATION, MODELS = "results.json", "controller.json", "self_information.f32", "models"
BEGUN = ("stages", "config.yaml")  # what a run has before it has results


def read_results(folder: Path) -> dict[str, Any]:
    """The results of a finished run that has a front.

    Raises:
        CheckpointError: The folder holds no run, one that has not finished, or one without a front.
    """
    try:
        results = read_json(folder / RESULTS)
    except FileNotFoundError as error:
        if any((folder / name).exists() for name in BEGUN):
            raise CheckpointError(
                f"The run in {folder} has not finished ({RESULTS} is missing). The same `metas run` command goes on "
                "with it."
            ) from error
        raise CheckpointError(
            f"{folder} holds no run ({RESULTS} is missing). Give the folder of a finished one, such as outputs/demo."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / RESULTS} cannot be read ({error}). Run it again.") from error
    rows = results.get("front") if isinstance(results, dict) else None
    if not rows or not (folder / MODELS).is_dir():
        raise CheckpointError(
            f"The run in {folder} has no front: no members are listed in {RESULTS}, or {MODELS}/ is missing. Give the "
            "folder of a run of a method that cuts members, such as MetaS-PEFT."
        )
    return results


def member_folders(folder: Path, results: dict[str, Any]) -> dict[str, Path]:
    """Name of each member -> folder of its compact model.

    Raises:
        CheckpointError: A row of the results has no name or key.
    """
    try:
        return {str(row["name"]): folder / MODELS / str(row["key"]) for row in results["front"]}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / RESULTS} lists a member without {error}. Run it again.") from error


def read_controller(folder: Path, run_id: str) -> Controller:
    """The controller of a run.

    Raises:
        CheckpointError: It is missing, damaged, or of another run.
    """
    try:
        text = (folder / CONTROLLER).read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{folder} has no controller ({CONTROLLER}: {error.strerror}), so nothing chooses a member. Name one."
        ) from error
    controller = from_json(text)
    controller.require_run(run_id)
    return controller


def read_features(folder: Path) -> list[float]:
    """Self-information of the tokens, in nats, with which the controller's first feature is computed.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    if not (folder / INFORMATION).exists():
        raise CheckpointError(
            f"{folder} has no {INFORMATION}, with which the controller's features are computed. Run it again, or name "
            "a member."
        )
    return read_information(folder / INFORMATION)


def read_tokenizer(member: Path) -> Any:
    """The tokeniser that lies beside a member.

    Raises:
        CheckpointError: There is none.
    """
    try:
        found = AutoTokenizer.from_pretrained(member, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        found, reason = None, str(error).splitlines()[0]
    else:
        reason = "it has no vocabulary"
    # Where there are no files, transformers makes one up of special tokens, to which every word is unknown.
    if found is None or len(found) <= len(found.all_special_tokens):
        raise CheckpointError(
            f"{member} has no tokeniser ({reason}). Put the backbone's tokenizer.json and tokenizer_config.json there, "
            "or run it again."
        )
    return found
