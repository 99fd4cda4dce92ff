"""The whole sentences of SST-2, which the study trains on: about 6,900 texts of 19 words instead of 67,349 of 9.

    python benchmarks/study/sentences.py --data FOLDER --output SENTENCES

GLUE's training file lists every phrase of the treebank's parses that has an opinion. A phrase that lies within no other
phrase is a sentence; the treebank has 6,920 of them (Socher et al. 2013; `SetFit/sst2` on the hub has just those).
Models are judged on whole sentences, and of 7,000 phrases drawn at random only one in ten is.
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from metas_peft.core.files import replacing
from metas_peft.tasks import TextExamples, load_task


def main(arguments: list[str] | None = None) -> None:
    """Write SENTENCES/sst2/train.parquet and, as it is, validation.parquet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/, the files of GLUE")
    parser.add_argument("--output", type=Path, required=True, help="what to give the study as --data")
    args = parser.parse_args(arguments)
    data = load_task("sst2", path=args.data / "sst2")
    phrases = dict(zip(data.train.texts + data.holdout.texts, data.train.labels + data.holdout.labels, strict=True))
    sentences = whole(phrases)
    folder = args.output / "sst2"
    folder.mkdir(parents=True, exist_ok=True)
    for name, examples in (
        ("train", TextExamples(tuple(sentences), tuple(sentences.values()))),
        ("validation", data.validation),
    ):
        with replacing(folder / f"{name}.parquet") as path:
            pq.write_table(pa.table({"sentence": examples.texts, "label": examples.labels}), path)
        print(f"{folder / name}.parquet: {len(examples):,} sentences")


def whole(phrases: dict[str, int]) -> dict[str, int]:
    """Those texts with their labels, in alphabetical order, whose words are no part of another's."""
    by_words = {tuple(text.split()): text for text in phrases}
    inner: set[tuple[str, ...]] = set()
    for words in sorted(by_words, key=len, reverse=True):
        if words in inner:
            continue  # so are its parts
        n = len(words)
        parts = (words[i:j] for i in range(n) for j in range(i + 1, n + 1) if j - i < n)
        inner.update(part for part in parts if part in by_words)
    return {text: phrases[text] for words, text in sorted(by_words.items()) if words not in inner}


if __name__ == "__main__":
    main()
