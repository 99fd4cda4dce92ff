"""Finding members in folders, and saying what is wrong with folders that have none."""

import json
import shutil

import pytest

from metas_peft.core.errors import CheckpointError, ExportError, MetasPeftError, OutputError, UnknownNameError
from metas_peft.export.members import copy_tokenizer, dense_of, filling, find_member, members_of


def test_members_are_found_in_the_order_of_the_front(front):
    members = members_of(front())
    assert [m.name for m in members] == ["60 %", "30 %"]
    assert [m.folder.name for m in members] == [m.key for m in members]
    assert members[1].subnet.kept_layers == 3
    assert dense_of(front()).name == "dense"


@pytest.mark.parametrize("wanted", ["30 %", "30%", "key"])
def test_member_is_found_by_name_and_by_key(front, wanted):
    key = members_of(front())[1].key
    assert find_member(front(), key if wanted == "key" else wanted).key == key


def test_folder_of_a_member_is_that_member(front):
    member = members_of(front())[0]
    assert find_member(member.folder, None) == member
    assert dense_of(member.folder) is None


@pytest.mark.parametrize(("wanted", "message"), [(None, "No member was named"), ("31 %", "did you mean '30 %'")])
def test_unknown_member_names_the_known(front, wanted, message):
    with pytest.raises(UnknownNameError, match=message):
        find_member(front(), wanted)


def test_folder_without_members_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither a front \(subnets.json\) nor a compact model \(plan.json\)"):
        members_of(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"members": 3}', '{"members": []}', '{"members": [{"name": "x"}]}', "[1", "null",
                '{"members": [{"name": "x", "subnet": {"layers": []}}]}']
)  # fmt: skip
def test_damaged_list_of_members_is_refused(tmp_path, content):
    (tmp_path / "subnets.json").write_text(content)
    with pytest.raises(CheckpointError, match="subnets.json"):
        members_of(tmp_path)


def test_member_that_is_listed_but_gone_is_refused(front, tmp_path):
    folder = shutil.copytree(front(), tmp_path / "run")
    shutil.rmtree(members_of(folder)[1].folder)
    with pytest.raises(CheckpointError, match="holds no compact model"):
        members_of(folder)


@pytest.mark.parametrize("about", [None, 3, [], {"name": 5}])
def test_plan_with_an_odd_note_still_has_a_name(front, tmp_path, about):
    folder = shutil.copytree(members_of(front())[0].folder, tmp_path / "member")
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"about": about}))
    assert members_of(folder)[0].name in {plan["key"], "5"}


def test_random_damage_to_the_lists_of_a_run_is_refused_by_name(front, tmp_path):
    import numpy as np

    folder = shutil.copytree(front(), tmp_path / "run")
    rng, refused = np.random.default_rng(0), 0
    files = [folder / "subnets.json", members_of(folder)[0].folder / "plan.json"]
    for trial in range(80):
        file = files[trial % 2]
        good = file.read_bytes()
        data = bytearray(good)
        place, length = int(rng.integers(len(data))), int(rng.integers(1, 12))
        if trial % 4 < 2:
            data[place : place + length] = rng.bytes(length)
        else:
            del data[place : place + length]
        file.write_bytes(data)
        try:
            members_of(folder)
        except MetasPeftError:
            refused += 1
        file.write_bytes(good)
    assert refused > 50


def test_tokeniser_is_all_that_lies_beside_a_members_own_files(front, tmp_path):
    assert copy_tokenizer(members_of(front())[0].folder, tmp_path)
    assert {"tokenizer.json", "tokenizer_config.json"} <= {f.name for f in tmp_path.iterdir()}
    assert not {"plan.json", "compact.safetensors", "per_layer_config.json"} & {f.name for f in tmp_path.iterdir()}


def test_folder_that_holds_something_is_not_written_into(tmp_path):
    (tmp_path / "mine").touch()
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(OutputError, match="not empty"), filling(folder):
            pytest.fail("it was entered")
    assert (tmp_path / "mine").exists()
    with pytest.raises(OutputError, match="cannot be made"), filling(tmp_path / "mine" / "below"):
        pytest.fail("it was entered")


def test_artefact_that_fails_half_way_leaves_nothing(tmp_path):
    def write():
        with filling(tmp_path / "out"):
            (tmp_path / "out" / "half").touch()
            raise ExportError("no")

    with pytest.raises(ExportError):
        write()
    assert not (tmp_path / "out").exists()
    with filling(tmp_path / "out"):
        (tmp_path / "out" / "whole").touch()
    assert (tmp_path / "out" / "whole").exists()
