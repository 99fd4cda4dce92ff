"""The C header, compiled as strictly as a compiler can be told to, against the Python tree."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from metas_peft.control.assess import decide_all
from metas_peft.control.c_header import render
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
        [compiler, *flags, "main.c", "-o", "main"], cwd=folder, capture_output=True, text=True, timeout=60
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
