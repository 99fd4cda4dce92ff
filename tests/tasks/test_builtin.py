import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from metas_peft.core.errors import DatasetError
from metas_peft.tasks import TASKS, load_task
from metas_peft.tasks.corpus import evaluation_sentences, lexicon, templates, training_sentences
from metas_peft.tasks.corpus.generate import generate
from metas_peft.tasks.corpus.lexicon import Lexicon
from metas_peft.tasks.splits import draw, for_choosing

# Grammar, as opposed to what is praised, blamed or by whom: the only words that both parts may use.
GRAMMAR = frozenset(
    """a all an and are as at be but call can't could did don't even find for from had has have here i if in is it made
    may me most my never no nor not of one our said say so that the this though to us was we were which will with would
    yet you every""".split()
)


def _words(texts) -> set[str]:
    return {word for text in texts for word in re.findall(r"[a-z'-]+", text.lower())}


def _opinions(part: Lexicon) -> list[str]:
    pairs = [*part.adjectives.values(), part.verdicts, part.feelings]
    verbs = [form for side in part.verbs for verb in side for form in verb]
    return [word for pair in pairs for side in pair for word in side] + verbs


def _nouns(part: Lexicon) -> list[str]:
    return [*part.people, *(w for t in part.topics for w in t.wholes), *(n.text for t in part.topics for n in t.parts)]


@pytest.fixture(scope="module")
def data():
    return load_task("builtin")


def test_corpus_is_the_same_everywhere():
    text = "\n".join(f"{s.label} {s.text}" for s in (*training_sentences()[:200], *evaluation_sentences()[:200]))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "b0b85315a7c25cbd"


def test_corpus_says_that_it_is_synthetic(data):
    assert (data.name, data.origin, data.quality_metric) == ("builtin", "synthetic", "accuracy")
    assert "generated" in data.source


def test_corpus_sizes_and_balance(data):
    assert (len(data.train), len(data.holdout), len(data.validation)) == (5400, 600, 1000)
    assert sum(s.label for s in training_sentences()) == 3000
    assert sum(data.validation.labels) == 500
    assert data.chance_quality == 0.5


def test_labels_are_balanced_within_every_template():
    for sentences, patterns in ((training_sentences(), templates.TRAIN), (evaluation_sentences(), templates.TEST)):
        per_template = Counter((s.template, s.label) for s in sentences)
        assert len(per_template) == 2 * len(patterns)
        assert all(per_template[index, 0] == per_template[index, 1] for index in range(len(patterns)))


def test_no_sentence_occurs_twice():
    texts = [s.text.lower() for s in (*training_sentences(), *evaluation_sentences())]
    assert len(set(texts)) == len(texts) == 7000


def test_parts_share_no_template():
    train, test = ({t.text for t in part} for part in (templates.TRAIN, templates.TEST))
    assert len(train) == len(templates.TRAIN) >= 90
    assert len(test) == len(templates.TEST) >= 40
    assert not train & test


def test_parts_share_no_opinion_word_and_no_noun():
    for entries in (_opinions, _nouns):
        train, test = entries(lexicon.TRAIN), entries(lexicon.TEST)
        assert min(len(train), len(test)) > 50
        # Not even a word inside an entry, nor the same stem: `delight` against `delightful`.
        stems = [{w[:6] for e in part for w in e.split() if w not in GRAMMAR} for part in (train, test)]
        assert not stems[0] & stems[1]


def test_parts_share_grammar_only():
    shared = _words(s.text for s in training_sentences()) & _words(s.text for s in evaluation_sentences())
    assert shared <= GRAMMAR, sorted(shared - GRAMMAR)


def test_no_word_is_on_both_sides_of_an_opinion():
    for part in (lexicon.TRAIN, lexicon.TEST):
        pairs = [*part.adjectives.values(), part.verdicts, part.feelings]
        assert not {w for pair in pairs for w in pair[0]} & {w for pair in pairs for w in pair[1]}


def test_every_level_of_difficulty_is_in_both_parts():
    for sentences in (training_sentences(), evaluation_sentences()):
        shares = {level: n / len(sentences) for level, n in Counter(s.level for s in sentences).items()}
        assert shares == pytest.approx(dict(templates.LEVELS), abs=0.01)


def test_sentences_are_whole_and_short():
    for sentence in (*training_sentences(), *evaluation_sentences()):
        assert re.fullmatch(r"[A-Z][A-Za-z',:;.!? -]*[.!]", sentence.text), sentence.text
        assert len(sentence.text.split()) <= 20
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |\b(\w+) \1\b", sentence.text), sentence.text


@pytest.fixture
def small_lexicon() -> Lexicon:
    """One word for every slot, so that a template has two fillings at most: one for each order of the parts."""
    parts = (lexicon.Noun("bread", "food", "mass"), lexicon.Noun("eggs", "food", "many"))
    return Lexicon(
        topics=(lexicon.Topic(("inn",), parts),),
        adjectives={kind: (("stale",), ("edible",)) for kind in ("any", "food")},
        verbs=((("hate", "hated"),), (("love", "loved"),)),
        verdicts=(("a mess",), ("a hit",)),
        feelings=(("sad",), ("glad",)),
        people=("my aunt",),
        intensifiers=("very",),
    )


@pytest.mark.parametrize(
    ("pattern", "negative", "positive"),
    [
        ("this is {a+0} {n0}.", "This is a stale inn.", "This is an edible inn."),
        ("{who} {did-} it. I {did+} it.", "My aunt loved it. I hated it.", "My aunt hated it. I loved it."),
        ("I don't {do-} {n0s}; {very} {feel+}.", "I don't love inns; very sad.", "I don't hate inns; very glad."),
        ("it isn't {thing-}, it is {+g}.", "It isn't a hit, it is stale.", "It isn't a mess, it is edible."),
    ],
)
def test_plus_follows_the_label_and_minus_opposes_it(small_lexicon, pattern, negative, positive):
    sentences = generate([templates.Template("plain", pattern)], small_lexicon, 2, 0)
    assert {s.label: s.text for s in sentences} == {0: negative, 1: positive}


def test_verbs_and_articles_agree_with_the_part(small_lexicon):
    pattern = templates.Template("plain", "{a+1} {n1} {is1} what {was1} promised.")
    positive = {s.text for s in generate([pattern], small_lexicon, 4, 0) if s.label == 1}
    assert positive == {"Edible bread is what was promised.", "Edible eggs are what were promised."}


def test_template_without_enough_fillings_is_refused(small_lexicon):
    with pytest.raises(ValueError, match="too few fillings"):
        generate([templates.Template("plain", "this {n0} is {+0}.")], small_lexicon, 4, 0)


@pytest.mark.parametrize("ngrams", [1, 2])
def test_bag_of_words_fails_on_the_corpus(data, ngrams):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(ngram_range=(1, ngrams))
    features, unseen = counter.fit_transform(data.train.texts), counter.transform(data.validation.texts)
    best = max(
        LogisticRegression(C=penalty, max_iter=1000)
        .fit(features, data.train.labels)
        .score(unseen, data.validation.labels)
        for penalty in (0.01, 0.1, 1.0, 10.0)
    )
    assert best <= 0.75


def test_holdout_depends_on_the_seed_and_evaluation_does_not(data):
    other = load_task("builtin", seed=1, evaluation_limit=100)
    same = load_task("builtin", seed=2, evaluation_limit=100)
    assert set(other.holdout.texts) != set(data.holdout.texts)
    assert other.validation == same.validation
    assert not set(data.train.texts) & set(data.holdout.texts)
    assert np.isclose(np.mean(other.holdout.labels), 0.5, atol=0.07)


def test_builtin_refuses_a_path(tmp_path):
    with pytest.raises(DatasetError, match="is generated"):
        load_task("builtin", path=tmp_path)


def test_held_out_examples_take_the_place_of_the_evaluation_ones_for_choosing():
    data = load_task("builtin", train_limit=200)
    task = TASKS["builtin"]
    choosing = for_choosing(data, task)
    assert choosing.validation == data.holdout != data.validation
    assert choosing.train == data.train
    right = [max(data.holdout.labels.count(c), 0) / len(data.holdout) for c in (0, 1)]
    assert choosing.chance_quality in right


def test_draw_is_seeded_ordered_and_keeps_labels():
    examples = load_task("builtin").train
    drawn = draw(examples, 10, seed=2)
    assert drawn == draw(examples, 10, seed=2) != draw(examples, 10, seed=3)
    places = [examples.texts.index(text) for text in drawn.texts]
    assert len(drawn) == 10
    assert places == sorted(set(places))
    assert [examples.labels[p] for p in places] == list(drawn.labels)
    assert draw(examples, 10**6, seed=0) == examples
