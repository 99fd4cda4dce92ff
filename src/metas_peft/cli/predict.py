"""`metas predict`: the adaptive model of a run on texts."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metas_peft.cli.output import JsonOption, give, show_table
from metas_peft.core.errors import MetasPeftError, UsageError

if TYPE_CHECKING:
    from metas_peft.serving import Answer

STANDARD_INPUT = "-"
SHOWN = 60  # characters of a text in the table


def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run, or of `metas deploy`.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; `-` reads lines from standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Text file with a text on each line.")] = None,
    member: Annotated[str | None, typer.Option(help="Ask this member, by name or key.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most texts in one pass.")] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; torch's own choice if absent.")] = None,
    json_target: JsonOption = None,
) -> None:
    """Classify texts, each by the member of the front that the controller chooses for it."""
    given = _texts(texts or [], file)
    import torch
    import transformers

    from metas_peft.serving import AdaptiveModel

    transformers.logging.set_verbosity_error()
    if threads is not None:
        torch.set_num_threads(threads)
    model = AdaptiveModel.open(folder, pinned=member is not None)
    rows = [_row(t, a) for t, a in zip(given, model.predict(given, member=member, batch_size=batch_size), strict=True)]
    result = {
        "run_id": model.front.run_id,
        "controller": member is None and model.controller is not None,
        "members": {m.name: sum(row["member"] == m.name for row in rows) for m in model.front},
        "predictions": rows,
    }
    if give(result, json_target):
        columns = ("text", "label", "probability", "member", "decision")
        show_table("", columns, [_cells(row) for row in rows], numeric=(2, 4))


def _texts(arguments: list[str], file: Path | None) -> list[str]:
    """Texts from the command line, standard input and a file, in this order."""
    given: list[str] = []
    for text in arguments:
        given += _lines(sys.stdin.read()) if text == STANDARD_INPUT else [text]
    if file is not None:
        try:
            given += _lines(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise MetasPeftError(f"{file} cannot be read ({error}). Give a UTF-8 file with a text per line.") from error
    if not given:
        raise UsageError("There is no text. Write texts after the folder, `-` for standard input, or --file FILE.")
    return given


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _row(text: str, answer: "Answer") -> dict[str, Any]:
    return {
        "text": text,
        "label": answer.label,
        "probability": answer.probability,
        "member": answer.member,
        "decision_us": answer.decision_us,
        "logits": answer.logits.tolist(),
    }


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    text = row["text"] if len(row["text"]) <= SHOWN else row["text"][: SHOWN - 3] + "..."
    spent = "" if row["decision_us"] is None else f"{row['decision_us']:.0f} us"
    return text, row["label"], f"{row['probability']:.3f}", row["member"], spent
