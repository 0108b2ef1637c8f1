"""BLEU, chrF and METEOR, against sacreBLEU's own calls and against counts made by hand."""

import itertools

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EvalPrediction

from hf_mmalign.data.tokenizers import train_seq2seq_tokenizer
from hf_mmalign.evaluation.metrics.translation import Bleu, ChrF, Meteor, TranslationMetrics, align

SAID = ["the cat sat on the mat .", "a dog ran, quickly", "two men – stand"]
TRUE = ["the cat sat on a mat .", "a dog runs quickly", "two men – sit down"]


def test_bleu_and_chrf_are_sacrebleus():
    scores = Bleu().compute(predictions=SAID, references=TRUE)
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(SAID, [TRUE]).score)
    assert scores["bleu_intl"] == pytest.approx(sacrebleu.corpus_bleu(SAID, [TRUE], tokenize="intl").score)
    assert scores["bleu_4"] == scores["bleu"]
    assert scores["bleu_1"] > scores["bleu_2"] > scores["bleu_3"] > scores["bleu_4"] > 0
    assert ChrF().compute(predictions=SAID, references=TRUE)["chrf"] == pytest.approx(
        sacrebleu.corpus_chrf(SAID, [TRUE]).score
    )


def test_bleu_of_single_words_is_their_precision_with_the_brevity_penalty():
    scores = Bleu().score(["a b c x"], ["a b c d e"])
    assert scores["bleu_1"] == pytest.approx(100 * 3 / 4 * np.exp(1 - 5 / 4))


def test_signatures_say_how_it_was_computed():
    bleu = Bleu()
    bleu.score(SAID, TRUE)
    assert "tok:13a" in bleu.signatures["bleu"]
    assert "tok:intl" in bleu.signatures["bleu_intl"]
    assert sacrebleu.__version__ in bleu.signatures["bleu"]


def test_meteor_by_hand():
    """6 of 7 words match in 2 chunks: P = R = 6/7, less half of (2/6)³ of it."""
    expected = 100 * 6 / 7 * (1 - 0.5 * (2 / 6) ** 3)
    assert Meteor().compute(predictions=SAID[:1], references=TRUE[:1])["meteor"] == pytest.approx(expected)
    assert Meteor().score(["The Cat"], ["the cat"])["meteor"] == pytest.approx(100 * (1 - 0.5 / 8))
    assert Meteor().score(["x"], ["y"])["meteor"] == 0.0


def exhaustive(words, reference):
    """Every one-to-one matching, the largest and of these the one with the fewest chunks."""
    best = (0, 0)
    for places in itertools.product(*[[None, *(i for i, w in enumerate(reference) if w == word)] for word in words]):
        used = [place for place in places if place is not None]
        if len(set(used)) < len(used):
            continue
        chunks = sum(
            place is not None and (index == 0 or places[index - 1] is None or place != places[index - 1] + 1)
            for index, place in enumerate(places)
        )
        best = max(best, (len(used), -chunks))
    return best[0], -best[1]


WORDS = st.lists(st.sampled_from("abc"), min_size=0, max_size=5)


@settings(max_examples=150, deadline=None)
@given(WORDS, WORDS)
def test_the_alignment_is_the_best_of_all(words, reference):
    assert align(words, reference) == exhaustive(words, reference)


def test_token_ids_are_scored_as_text_with_padding_left_out():
    tokenizer = train_seq2seq_tokenizer(SAID + TRUE)
    ids = [tokenizer(text)["input_ids"] for text in SAID], [tokenizer(text)["input_ids"] for text in TRUE]
    padded = [np.full((3, 40), -100), np.full((3, 40), -100)]
    for array, rows in zip(padded, ids, strict=True):
        for row, values in zip(array, rows, strict=True):
            row[: len(values)] = values
    padded[0][:, -1] = tokenizer.pad_token_id
    metrics = TranslationMetrics(
        lambda rows: tokenizer.batch_decode(rows, skip_special_tokens=True), tokenizer.pad_token_id
    )
    assert metrics(EvalPrediction(*padded)) == metrics.score(SAID, TRUE)
    assert next(iter(metrics.score(SAID, TRUE))) == "bleu"
    with pytest.raises(ValueError, match="predict_with_generate"):
        metrics(EvalPrediction(np.zeros((3, 4, 9)), padded[1]))


def test_references_are_scored_as_they_were_written():
    """What a tokenizer does not know, or what was cut, counts against a translation all the same."""
    tokenizer = train_seq2seq_tokenizer(["a dog runs"])
    label = tokenizer("a dog runs")["input_ids"]

    def decode(rows):
        return tokenizer.batch_decode(rows, skip_special_tokens=True)

    prediction = EvalPrediction(np.array([label]), np.array([label]))
    whole = TranslationMetrics(decode, 0, {tuple(label): "a dog runs ☃ ☃ ☃"})
    assert TranslationMetrics(decode, 0)(prediction)["bleu_1"] == pytest.approx(100)
    assert whole(prediction)["bleu_1"] == pytest.approx(100 * np.exp(1 - 2))
