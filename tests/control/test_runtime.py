"""Deciding from JSON and from bytes, with the standard library alone."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from metas_peft.control.codec import pack
from metas_peft.control.runtime import distribution_entropy, from_bytes, from_json, token_entropy
from metas_peft.control.tree import Controller, ControllerTree
from metas_peft.core.errors import CheckpointError


def reference(entropy: np.float32, position: np.float32) -> int:
    """The tree of the fixture, written out by hand."""
    if entropy <= np.float32(5.25):
        if position <= np.float32(0.1):
            return 0 if entropy <= np.float32(3.3) else 1
        return 2
    if position <= np.float32(0.5):
        return 3 if entropy <= np.float32(7.7) else 0
    return 2 if entropy <= np.float32(8.0) else 3


def test_decisions_follow_the_written_out_tree_from_json_and_bytes(nested: Controller) -> None:
    rng = np.random.default_rng(0)
    entropy = np.concatenate([rng.uniform(0, 12, 2000), [5.25, 3.3, 7.7, 8.0]]).astype(np.float32)
    position = np.concatenate([rng.uniform(0, 1, 2000), [0.1, 0.1, 0.5, 0.6]]).astype(np.float32)
    expected = [reference(e, p) for e, p in zip(entropy, position, strict=True)]
    assert set(expected) == {0, 1, 2, 3}
    for controller in (from_json(json.dumps(nested.as_dict())), from_bytes(pack(nested))):
        got = [controller.decide(float(e), float(p)) for e, p in zip(entropy, position, strict=True)]
        assert got == expected


def test_decide_rounds_to_float32_as_the_c_header_does(nested: Controller) -> None:
    threshold = float(np.float32(3.3))
    just_above = math.nextafter(threshold, math.inf)  # rounds back to the threshold
    assert nested.decide(just_above, 0.0) == nested.decide(threshold, 0.0) == 0
    assert nested.decide(float(np.nextafter(np.float32(3.3), np.float32(9))), 0.0) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_decide_refuses_features_that_are_not_finite(nested: Controller, value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        nested.decide(value, 0.5)
    with pytest.raises(ValueError, match="finite"):
        nested.decide(0.5, value)


def test_json_keeps_the_length_that_positions_are_taken_of(nested: Controller) -> None:
    whole = dataclasses.replace(nested, max_length=128)
    assert from_json(json.dumps(whole.as_dict())).max_length == 128
    assert from_json(json.dumps(nested.as_dict())).max_length is None
    assert from_bytes(pack(whole)) == nested


@pytest.mark.parametrize("length", [-4, 0, 12.5, "128", True, [128]])
def test_a_length_that_no_text_can_have_is_refused_in_a_sentence(nested: Controller, length: object) -> None:
    text = json.dumps(nested.as_dict() | {"max_length": length})
    with pytest.raises(CheckpointError, match=r"\(max_length\); expected a whole number of at least 1\. Write") as seen:
        from_json(text)
    assert repr(length) in str(seen.value)


def test_json_keeps_names_and_members(nested: Controller) -> None:
    back = from_json(json.dumps(nested.as_dict()))
    assert back == nested
    assert back.names == ("25 %", "50 %", "75 %", "100 %")


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}", '{"schema_version": 2}', '{"schema_version": 1, "members": []}', '{"schema_version": 1}'],
)
def test_from_json_refuses_what_is_not_a_controller(text: str) -> None:
    with pytest.raises(CheckpointError):
        from_json(text)


def test_trees_that_loop_or_point_outside_are_refused() -> None:
    with pytest.raises(CheckpointError, match="Node 0"):
        ControllerTree((0, -1), (1.0, 0.0), (0, -1), (1, -1), (-1, 0))
    with pytest.raises(CheckpointError, match="Node 0"):
        ControllerTree((0,), (1.0,), (1,), (2,), (-1,))


def test_tree_that_chooses_a_missing_member_is_refused(nested: Controller) -> None:
    with pytest.raises(CheckpointError, match="member 3 of 2"):
        Controller(nested.tree, nested.members[:2])


def test_controller_of_another_run_is_refused(nested: Controller) -> None:
    nested.require_run("demo")
    with pytest.raises(CheckpointError, match="another run"):
        nested.require_run("other")


def test_depth_and_members_used(full_tree: ControllerTree) -> None:
    assert full_tree.depth == 3
    assert full_tree.members_used == (0, 1, 2, 3)
    assert ControllerTree.always(2).depth == 0


def test_entropies_are_in_nats() -> None:
    assert token_entropy([0, 1, 1], [1.0, 4.0]) == pytest.approx(3.0)
    assert token_entropy([], [1.0]) == 0.0
    assert distribution_entropy([0.25] * 4 + [0.0]) == pytest.approx(math.log(4))


def test_runtime_needs_the_standard_library_only(nested: Controller) -> None:
    code = (
        "import sys, json\n"
        "for name in ('numpy', 'torch', 'sklearn', 'moocore', 'yaml'): sys.modules[name] = None\n"
        "from metas_peft.control import runtime, c_header\n"
        "controller = runtime.from_bytes(bytes.fromhex(sys.stdin.read()))\n"
        "print(controller.decide(9.0, 0.9))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pack(nested).hex(), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "3"
