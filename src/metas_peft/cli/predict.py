"""`metas predict`: the adaptive model of a run on texts."""

import statistics
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metas_peft.cli.output import JsonOption, give, show_table
from metas_peft.core.errors import MetasPeftError, UsageError

if TYPE_CHECKING:
    from metas_peft.serving import AdaptiveModel, Answer

STANDARD_INPUT = "-"
SHOWN = 60  # characters of a text in the table


def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; `-` reads lines from standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Text file with a text on each line.")] = None,
    member: Annotated[str | None, typer.Option(help="Ask this member, by name or key.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most texts in one pass.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens that a language model writes.")] = 64,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; torch's own choice if absent.")] = None,
    json_target: JsonOption = None,
) -> None:
    """Answer texts, each by the member that the controller chooses for it, or for each token that it writes."""
    given = _texts(texts or [], file)
    import torch
    import transformers

    from metas_peft.serving import AdaptiveModel

    transformers.logging.set_verbosity_error()
    if threads is not None:
        torch.set_num_threads(threads)
    model = AdaptiveModel.open(folder, pinned=member is not None)
    if model.front.generates:
        rows = [_written(model, text, member, max_new_tokens) for text in given]
        columns, cells = ("text", "written", "tokens by member", "decision"), _cells_of_written
    else:
        answers = model.predict(given, member=member, batch_size=batch_size)
        rows = [_row(text, answer) for text, answer in zip(given, answers, strict=True)]
        columns, cells = ("text", "label", "probability", "member", "decision"), _cells
    result = {
        "run_id": model.front.run_id,
        "controller": member is None and model.controller is not None,
        "members": {m.name: sum(_served(row, m.name) for row in rows) for m in model.front},
        "predictions": rows,
    }
    if give(result, json_target):
        show_table("", columns, [cells(row) for row in rows], numeric=(len(columns) - 1,))


def _texts(arguments: list[str], file: Path | None) -> list[str]:
    """Texts from the command line, standard input and a file, in this order."""
    given: list[str] = []
    for text in arguments:
        given += _standard_input() if text == STANDARD_INPUT else [_encodable(text)]
    if file is not None:
        try:
            given += _lines(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise MetasPeftError(f"{file} cannot be read ({error}). Give a UTF-8 file with a text per line.") from error
    if not given:
        raise UsageError("There is no text. Write texts after the folder, `-` for standard input, or --file FILE.")
    return given


def _standard_input() -> list[str]:
    try:
        return [_encodable(line) for line in _lines(sys.stdin.read())]
    except UnicodeDecodeError as error:
        raise MetasPeftError(f"Standard input cannot be read ({error}). Give UTF-8 with a text per line.") from error


def _encodable(text: str) -> str:
    """The text, unless it stands for bytes that are no UTF-8 (Python keeps such bytes as half characters)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MetasPeftError(f"{ascii(text)} is no text ({error.reason}). Give UTF-8.") from error
    return text


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


def _written(model: "AdaptiveModel", text: str, member: str | None, limit: int) -> dict[str, Any]:
    """What a language model writes behind a text."""
    tokens = list(model.stream(text, max_new_tokens=limit, member=member))
    spent = [t.decision_us for t in tokens if t.decision_us is not None]
    return {
        "text": text,
        "written": "".join(t.text for t in tokens),
        "tokens": [t.token_id for t in tokens],
        "members": dict(Counter(t.member for t in tokens)),
        "decision_us": statistics.mean(spent) if spent else None,
    }


def _served(row: Mapping[str, Any], member: str) -> int:
    """Texts, or tokens of a written text, that a member answered."""
    return row["members"].get(member, 0) if "members" in row else int(row["member"] == member)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return _short(row["text"]), row["label"], f"{row['probability']:.3f}", row["member"], _time(row)


def _cells_of_written(row: Mapping[str, Any]) -> tuple[str, ...]:
    members = ", ".join(f"{count} by {name}" for name, count in row["members"].items())
    return _short(row["text"]), row["written"].strip(), members, _time(row)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _time(row: Mapping[str, Any]) -> str:
    return "" if row["decision_us"] is None else f"{row['decision_us']:.0f} us"
