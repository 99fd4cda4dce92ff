"""The C header, compiled as strictly as a compiler can be told to, against the Python tree."""

import dataclasses
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from metas_peft.control.assess import decide_all
from metas_peft.control.c_header import render
from metas_peft.control.features import write_information
from metas_peft.control.runtime import logits_entropy, token_entropy
from metas_peft.control.tree import Controller

PROGRAM = """
#include <stdio.h>
#include "controller.h"
int main(void)
{
    float pair[2];
    int layer, kept = 0;
    for (layer = 0; layer < METAS_LAYERS; ++layer) { kept += metas_kept_heads[METAS_MEMBERS - 1][layer]; }
    printf("%d\\n", kept);
    while (fread(pair, sizeof(float), 2, stdin) == 2) { printf("%d\\n", metas_decide(pair[0], pair[1])); }
    return 0;
}
"""


def compiled(controller: Controller, folder: Path, program: str = PROGRAM) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    (folder / "controller.h").write_text(render(controller))
    (folder / "main.c").write_text(program)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2"]
    done = subprocess.run(
        [compiler, *flags, "main.c", "-o", "main", "-lm"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return folder / "main"


def test_c_header_answers_as_python_on_ten_thousand_inputs(nested: Controller, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    entropy = rng.uniform(0, 12, 10_000).astype(np.float32)
    position = rng.uniform(0, 1, 10_000).astype(np.float32)
    thresholds = np.array(nested.tree.threshold, dtype=np.float32)
    entropy[: len(thresholds)] = thresholds  # exactly on the edges, and one step beside them
    entropy[100 : 100 + len(thresholds)] = np.nextafter(thresholds, np.float32(np.inf))
    inputs = np.column_stack([entropy, position]).astype("<f4").tobytes()
    done = subprocess.run([compiled(nested, tmp_path)], input=inputs, capture_output=True, timeout=60, check=True)
    kept, *answers = (int(line) for line in done.stdout.split())
    assert answers == decide_all(nested.tree, entropy, position).tolist()
    assert len(answers) == 10_000
    assert set(answers) == {0, 1, 2, 3}
    assert kept == nested.members[-1].kept_heads


def test_c_header_answers_minus_one_when_a_feature_is_not_finite(nested: Controller, tmp_path: Path) -> None:
    pairs = [(float("nan"), 0.5), (0.5, float("inf")), (1.0, 0.0)]
    inputs = b"".join(struct.pack("<2f", *pair) for pair in pairs)
    done = subprocess.run([compiled(nested, tmp_path)], input=inputs, capture_output=True, timeout=60, check=True)
    assert [int(v) for v in done.stdout.split()[1:]] == [-1, -1, 0]


FEATURES = """
#include <stdio.h>
#include "controller.h"
int main(void)
{
    static float nats[50], logits[50];
    int32_t ids[16], count;
    float position;
    if (fread(nats, sizeof(float), 50, stdin) != 50) { return 1; }
    while (fread(&count, sizeof(count), 1, stdin) == 1) {
        if (fread(ids, sizeof(int32_t), (size_t)count, stdin) != (size_t)count) { return 1; }
        if (fread(logits, sizeof(float), 50, stdin) != 50) { return 1; }
        position = (float)((double)count / METAS_MAX_LENGTH);
        printf("%d %d\\n", metas_decide(metas_token_entropy(ids, (size_t)count, nats), position),
               metas_decide(metas_logits_entropy(logits, 50), position));
    }
    return 0;
}
"""


def test_c_header_computes_features_and_decides_as_python_on_ten_thousand_inputs(
    nested: Controller, tmp_path: Path
) -> None:
    controller = dataclasses.replace(nested, max_length=16)
    rng = np.random.default_rng(1)
    nats = rng.uniform(0, 14, 50).astype(np.float32)
    lengths = rng.integers(1, 17, 10_000)
    ids = [rng.integers(0, 50, n).astype(np.int32) for n in lengths]
    logits = (rng.normal(0, 1, (10_000, 50)) * rng.uniform(0, 9, (10_000, 1))).astype(np.float32)
    parts = (np.int32(len(i)).tobytes() + i.tobytes() + row.tobytes() for i, row in zip(ids, logits, strict=True))
    program = compiled(controller, tmp_path, FEATURES)
    done = subprocess.run(
        [program], input=nats.tobytes() + b"".join(parts), capture_output=True, timeout=60, check=True
    )
    table, answers = nats.tolist(), np.array(done.stdout.split(), dtype=int).reshape(-1, 2)
    assert len(answers) == 10_000
    encoder = [controller.decide(token_entropy(i.tolist(), table), len(i) / 16) for i in ids]
    decoder = [controller.decide(logits_entropy(row.tolist()), len(i) / 16) for i, row in zip(ids, logits, strict=True)]
    assert answers[:, 0].tolist() == encoder
    assert answers[:, 1].tolist() == decoder
    assert set(encoder) | set(decoder) == {0, 1, 2, 3}


def test_c_entropy_of_no_token_is_zero_and_of_no_number_is_refused(nested: Controller, tmp_path: Path) -> None:
    program = """
#include <stdio.h>
#include "controller.h"
int main(void)
{
    const float logits[2] = { 0.0f, (float)NAN };
    printf("%.1f %d\\n", metas_token_entropy(NULL, 0, NULL), metas_decide(metas_logits_entropy(logits, 2), 0.0f));
    return 0;
}
"""
    done = subprocess.run([compiled(nested, tmp_path, program)], capture_output=True, timeout=60, check=True)
    assert done.stdout.split() == [b"0.0", b"-1"]


def test_example_program_names_the_member_and_what_it_keeps(nested: Controller, tmp_path: Path) -> None:
    controller = dataclasses.replace(nested, max_length=8)
    source = (Path(__file__).resolve().parents[2] / "examples" / "c" / "choose.c").read_text()
    program = compiled(controller, tmp_path, source)
    information = np.linspace(0, 9, 40).astype(np.float32)
    write_information(tmp_path / "self_information.f32", information)
    ids = [3, 39, 38, 7, 20]
    member = controller.decide(token_entropy(ids, information.tolist()), len(ids) / 8)
    done = subprocess.run(
        [program, tmp_path / "self_information.f32", *map(str, ids)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    first, *layers = done.stdout.splitlines()
    assert first.endswith(f": member {member}")
    plans = controller.members[member].layers
    assert layers == [
        f"layer {i}: {len(plan.heads) * plan.attention} heads, {len(plan.ffn_blocks) * plan.ffn} FFN blocks"
        for i, plan in enumerate(plans)
    ]
    wrong = subprocess.run(
        [program, tmp_path / "self_information.f32", "40"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (wrong.returncode, wrong.stderr) == (1, "40 is no token id below 40.\n")


def test_c_header_has_masks_when_members_are_not_nested(scattered: Controller, tmp_path: Path) -> None:
    program = """
#include <stdio.h>
#include "controller.h"
int main(void)
{
    const uint8_t *mask = metas_head_mask[0][0];
    printf("%d %d %d %d\\n", METAS_NESTED, mask[0], mask[1], metas_decide(1.0f, 0.0f));
    return 0;
}
"""
    done = subprocess.run([compiled(scattered, tmp_path, program)], capture_output=True, timeout=60, check=True)
    assert done.stdout.split() == [b"0", b"5", b"2", b"1"]  # heads 0, 2 and 9


def test_c_header_keeps_hostile_names_inside_the_comment(nested: Controller, tmp_path: Path) -> None:
    named = Controller(nested.tree, nested.members, nested.run, ("*/ int x;", "a??/b\\", "c\nd", "ä"))
    compiled(named, tmp_path)
    assert "*/ int" not in render(named)
