"""Members of a front on disk: found by key or name in a run's folder, or a single member's own folder."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metas_peft.backbones.store import OLD_WEIGHTS, PER_LAYER, PLAN, WEIGHTS, read_plan
from metas_peft.core.errors import CheckpointError, OutputError, UnknownNameError, nearest
from metas_peft.core.files import read_json
from metas_peft.core.subnet import Subnet

SUBNETS, MODELS, DENSE = "subnets.json", "models", "dense"
README = "README.md"
OWN = (WEIGHTS, *OLD_WEIGHTS.values(), PLAN, PER_LAYER, README)


@dataclass(frozen=True)
class StoredMember:
    """One compact model on disk.

    Attributes:
        key: Key of its subnet.
        name: Label such as `50 %`; the key where it has none.
        folder: Folder with its plan.
        subnet: What it keeps.
    """

    key: str
    name: str
    folder: Path
    subnet: Subnet


def members_of(folder: Path) -> list[StoredMember]:
    """All members that a folder holds: a run's front, largest first, or the one member whose folder it is.

    Raises:
        CheckpointError: It holds none, or what it holds is damaged.
    """
    if (folder / PLAN).exists():
        return [_member(folder, None)]
    try:
        listed = read_json(folder / SUBNETS)["members"]
        found = [(str(m["name"]), Subnet.from_dict(m["subnet"]).key) for m in listed]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} holds neither a front ({SUBNETS}) nor a compact model ({PLAN}). Give the folder of a finished "
            "run, such as outputs/demo, or of a member, such as outputs/demo/models/KEY."
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{folder / SUBNETS} cannot be read ({error}). Run it again.") from error
    if not found:
        raise CheckpointError(f"{folder / SUBNETS} lists no members. Run it again.")
    return [_member(folder / MODELS / key, name) for name, key in found]


def find_member(folder: Path, wanted: str | None) -> StoredMember:
    """One member by key or name.

    Args:
        folder: A run's folder or a member's.
        wanted: Key, or name with or without its blanks; may be absent where there is only one.

    Raises:
        UnknownNameError: No such member, or none was named and there are several.
    """
    members = members_of(folder)
    if wanted is None and len(members) == 1:
        return members[0]
    if wanted is not None:
        found = [m for m in members if _plain(wanted) in (_plain(m.key), _plain(m.name))]
        if found:
            return found[0]
    names = [m.name for m in members]
    what = "No member was named" if wanted is None else f"{folder} has no member {wanted!r}"
    raise UnknownNameError(f"{what}: --member takes a name or a key. {nearest(wanted or '', names)}")


def dense_of(folder: Path) -> StoredMember | None:
    """The whole model that a run compares its members with; None where there is none."""
    return members_of(folder / DENSE)[0] if (folder / DENSE / SUBNETS).exists() else None


def copy_tokenizer(member: Path, folder: Path) -> bool:
    """Copy what lies beside a member's own files: its tokeniser.

    Returns:
        Whether there was one.
    """
    files = [f for f in member.iterdir() if f.is_file() and f.name not in OWN]
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return bool(files)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Make a folder for an artefact; it is gone again if the block fails.

    Args:
        folder: Where to; must not hold anything else.

    Raises:
        OutputError: The folder holds something already, or cannot be made.
    """
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise OutputError(f"{folder} is not empty. Choose another folder with --out, or delete it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}). Choose another folder with --out.") from error
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _member(folder: Path, name: str | None) -> StoredMember:
    plan: dict[str, Any] = read_plan(folder)
    try:
        subnet = Subnet.from_dict(plan["subnet"])
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{folder / PLAN} tells no sub-network ({error}). Export the member again.") from error
    about = plan.get("about")
    noted = about.get("name") if isinstance(about, dict) else None
    return StoredMember(subnet.key, name or str(noted or subnet.key), folder, subnet)


def _plain(name: str) -> str:
    return "".join(name.lower().split())
