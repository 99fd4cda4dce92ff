"""The examples of docs/training.md, as they stand there."""

import re
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model

from metas_peft.testing.tiny import tiny_batch, tiny_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def test_examples_of_the_page_run(tmp_path):
    gates, price, budgets, teacher, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    batch = tiny_batch(batch=1)
    item = {**{k: v[0] for k, v in batch.items()}, "labels": 1}
    model = tiny_model("bert")
    config = LoraConfig(r=3, target_modules=["query", "value"], task_type="SEQ_CLS")
    names = {
        "transformers": transformers, "model": get_peft_model(model, config), "data": [item] * 16, "price": None,
        "args": transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=4, report_to=[], disable_tqdm=True, use_cpu=True
        ),
    }  # fmt: skip
    exec(gates, names)
    assert isinstance(names["small"], torch.nn.Module)
    assert names["small"](**batch).logits.shape == (1, 2)
    exec(price, names)
    counts = names["gates"].expected_counts()
    assert 0 < float(names["price"](counts).detach()) < 3
    exec(gates, names)  # this time with the price
    exec(budgets, names)
    assert names["limits"].hold([names["subnet"]])[0]
    exec(gates.replace("attach(gates, model)", "attach(gates, model, decide=decide)"), names)  # and with budgets
    names |= {"token_ids": [[5, 6, 7], [8, 9]], "labels": [0, 1]}
    exec(teacher, names)
    assert 0 < float(names["loss"].detach()) < 10
