"""The reference of run-file keys, as Markdown from the schema: `python -m metas_peft.conf.document`."""

import sys

from metas_peft.conf import groups
from metas_peft.conf.keys import Key, alternatives, element_of, keys_of, walk
from metas_peft.conf.methods import METHODS
from metas_peft.conf.schema import RunConfig
from metas_peft.conf.values import expected

_HEAD = """# Run files

Written from the schema by `make docs`; do not edit.

A run file is YAML with any of the keys below; what it leaves out takes its default. The same keys work on the
command line, as in `metas run demo training.seed=3 device=raspberry-pi-4`. `metas run FILE --cfg job` prints
what a file and overrides come to.

Most sections can also be chosen as a whole, by the name of a set of values: `model=tiny-decoder`, `dataset=gsm8k`,
`objective_weights=latency`. They are Hydra's groups, so that `--multirun dataset=sst2,cola method=MetaS-PEFT,EChorda`
goes over them; a choice replaces what the file says of the same keys, and single keys replace what a choice says. So
does a choice for a part of a section, `model=minilm model.peft=small`.

"""


def document() -> str:
    """All keys with type, default and meaning, and the methods' names."""
    parts = [_HEAD + _groups(), "## Top level\n", _table([k for k in keys_of(RunConfig).values() if not k.is_section])]
    for section in (k for k in walk() if k.is_section):
        element = element_of(section.kind)
        heading = f"{section.path}.NAME" if element is not None else section.path
        keys = keys_of(element or section.kind, f"{heading}.")
        parts += [f"## `{heading}`\n", f"{section.rule.doc}\n", _table([k for k in keys.values() if not k.is_section])]
    parts += ["## Methods\n", _methods()]
    return "\n".join(parts)


def _groups() -> str:
    chosen = sorted(groups.choices().items())
    return "\n".join([*(f"- `{section}`: {', '.join(names.values())}" for section, names in chosen), ""])


def _table(keys: list[Key]) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        kind = expected(key.kind)
        if bounds := key.rule.bounds():
            kind += f" ({bounds})"
        if key.rule.aliases:
            aliases = ", ".join(f"`{a}`" for a in key.rule.aliases)
            meaning = f"{key.rule.doc} Also called {aliases}."
        else:
            meaning = key.rule.doc
        lines.append(f"| `{key.leaf}` | {kind} | {_default(key)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(key: Key) -> str:
    value = key.default
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float) and any(k is float for k in alternatives(key.kind)):
        return f"`{value:.4g}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(str(v) for v in value) + "]`"
    return f"`{value}`"


def _methods() -> str:
    lines = [
        "| method | also called | gates | cost term | target measurements before evaluation |",
        "|---|---|---|---|---|",
    ]
    for name in METHODS:
        method = METHODS[name]
        aliases = ", ".join(f"`{a}`" for a in METHODS.aliases(name))
        gates = ", ".join(method.gates) or f"none ({method.shape})"
        lines.append(f"| `{name}` | {aliases} | {gates} | {method.cost_term} | {method.target_measurements} |")
    return "\n".join(lines) + "\n" + _CONTROL


_CONTROL = """
`ablation-no-mixup` and `ablation-no-meta` take a part out of the source's own network and predict by it; what the part
is worth shows beside MetaS-PEFT with `surrogate.kind=reference`, not beside the usual one.
"""


if __name__ == "__main__":
    sys.stdout.write(document())
