"""Scores of translations against one reference each: BLEU, chrF and METEOR, in percent."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from transformers import EvalPrediction

from .base import IGNORED_LABEL, LocalMetric

# States of the search for an alignment that are kept; METEOR's own tool keeps as many.
_BEAM = 40


class _TextMetric(LocalMetric):
    """Predictions and references are strings, one reference each.

    :attr:`signatures` says how sacreBLEU computed each score, once something was scored.
    """

    @property
    def signatures(self) -> dict[str, str]:
        return {}

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions, references: translations, as plain text",
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )


class Bleu(_TextMetric):
    """BLEU of the corpus by sacreBLEU: `bleu` (4-grams, tokenization 13a, case kept), the same of shorter n-grams as
    `bleu_1` to `bleu_4`, and `bleu_intl` with the international tokenization."""

    @cached_property
    def _scorers(self) -> dict[str, BLEU]:
        shorter = {f"bleu_{order}": BLEU(max_ngram_order=order) for order in range(1, 5)}
        return {"bleu": BLEU(), **shorter, "bleu_intl": BLEU(tokenize="intl")}

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        lists = [str(text) for text in predictions], [[str(text) for text in references]]
        return {name: float(scorer.corpus_score(*lists).score) for name, scorer in self._scorers.items()}

    @property
    def signatures(self) -> dict[str, str]:
        return {name: str(scorer.get_signature()) for name, scorer in self._scorers.items()}


class ChrF(_TextMetric):
    """chrF2 of the corpus by sacreBLEU."""

    @cached_property
    def _scorer(self) -> CHRF:
        return CHRF()

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        texts = [str(text) for text in predictions], [[str(text) for text in references]]
        return {"chrf": float(self._scorer.corpus_score(*texts).score)}

    @property
    def signatures(self) -> dict[str, str]:
        return {"chrf": str(self._scorer.get_signature())}


class Meteor(_TextMetric):
    """METEOR of the corpus (Banerjee and Lavie, 2005), by the stage that matches equal words.

    With P the share of the predicted words that are matched and R that of the references', it is 10 P R / (R + 9 P), less
    the share 0.5 (chunks / matches)³: the fewer pieces of matches in one order, the better. Counts are added up over the
    corpus. Words are those of sacreBLEU's tokenization 13a in lower case. The stages for stems (Porter), synonyms (WordNet)
    and paraphrases are left out: they need files of each language.
    """

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        matches = chunks = predicted = expected = 0
        for prediction, reference in zip(predictions, references, strict=True):
            words, true = _words(str(prediction)), _words(str(reference))
            found, pieces = align(words, true)
            matches, chunks = matches + found, chunks + pieces
            predicted, expected = predicted + len(words), expected + len(true)
        if not matches:
            return {"meteor": 0.0}
        precision, recall = matches / predicted, matches / expected
        mean = 10 * precision * recall / (recall + 9 * precision)
        return {"meteor": 100 * mean * (1 - 0.5 * (chunks / matches) ** 3)}


def _words(text: str) -> list[str]:
    return _TOKENIZE(text).lower().split()


_TOKENIZE = Tokenizer13a()


def align(words: Sequence[str], reference: Sequence[str]) -> tuple[int, int]:
    """The largest number of equal words that can be matched one to one, and the fewest chunks of which it can be.

    A chunk is a run of matches that are neighbours on both sides. Found by a beam search over the words.
    """
    places: dict[str, list[int]] = {}
    for place, word in enumerate(reference):
        places.setdefault(word, []).append(place)
    # How often a word may stay unmatched: what is more would cost matches.
    spare = {word: max(0, count - len(places.get(word, ()))) for word, count in Counter(words).items()}
    # By used places of the reference, place of the last match (or −2) and words left out: the fewest chunks.
    states: dict[tuple[frozenset[int], int, tuple[tuple[str, int], ...]], int] = {(frozenset(), -2, ()): 0}
    for word in words:
        following: dict[tuple[frozenset[int], int, tuple[tuple[str, int], ...]], int] = {}
        for (used, last, left), chunks in states.items():
            skipped = dict(left)
            options = [
                ((used | {place}, place, left), chunks + (place != last + 1))
                for place in places.get(word, ())
                if place not in used
            ]
            if skipped.get(word, 0) < spare[word]:
                options.append(
                    ((used, -2, tuple(sorted((skipped | {word: skipped.get(word, 0) + 1}).items()))), chunks)
                )
            for state, cost in options:
                if cost < following.get(state, len(words) + 1):
                    following[state] = cost
        states = dict(sorted(following.items(), key=lambda item: item[1])[:_BEAM])
    (used, _, _), chunks = min(states.items(), key=lambda item: item[1])
    return len(used), chunks


_METRICS: dict[str, type[_TextMetric]] = {
    **dict.fromkeys(("bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "bleu_intl"), Bleu),
    "chrf": ChrF,
    "meteor": Meteor,
}
# What :class:`TranslationMetrics` returns, the one that selects first.
TRANSLATION_METRICS = tuple(_METRICS)
# By name, what is reported instead: BLEU alone; what the Auto-Fusion paper has in its Tables 1 and 2.
TRANSLATION_FAMILIES = {
    "bleu": ("bleu", "bleu_intl"),
    "how2": ("bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4"),
    "multi30k": ("bleu", "bleu_4", "meteor"),
}


class TranslationMetrics:
    """Trainer's `compute_metrics` for translations: BLEU, chrF and METEOR of generated token ids.

    Args:
        decode (`Callable[[list[list[int]]], list[str]]`): Texts of token ids, special ones left out; a tokenizer's
            `batch_decode` with `skip_special_tokens=True`.
        pad_token_id (`int`): Stands for -100.
        references (`dict[tuple[int, ...], str]`, *optional*): By the token ids of a label, the text that they were made of,
            so that what the tokenizer does not know, or cuts, counts too. Labels that are not there are decoded.
        names (`Sequence[str]`, *optional*): The scores to compute, of `TRANSLATION_METRICS`; by default all.

    Attributes:
        signatures (`dict[str, str]`): sacreBLEU's signature of each score, once something was scored.
    """

    def __init__(
        self,
        decode: Callable[[list[list[int]]], list[str]],
        pad_token_id: int,
        references: dict[tuple[int, ...], str] | None = None,
        names: Sequence[str] = TRANSLATION_METRICS,
    ):
        self.decode = decode
        self.pad_token_id = pad_token_id
        self.references = references or {}
        self.names = tuple(names)
        self._metrics = [metric() for metric in dict.fromkeys(_METRICS[name] for name in self.names)]

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Scores by name, from 0 to 100.

        Raises:
            ValueError: For logits instead of token ids, or without labels.
        """
        ids = prediction.predictions
        ids = np.asarray(ids[0] if isinstance(ids, tuple | list) else ids)
        if prediction.label_ids is None:
            raise ValueError("Translations are scored against references, and this data set has none.")
        if ids.ndim != 2:
            raise ValueError(
                f"Token ids of translations are scored, not an array of shape {ids.shape}: set predict_with_generate=True."
            )
        ids = np.where(ids == IGNORED_LABEL, self.pad_token_id, ids).astype(np.int64)
        return self.score(self.decode(ids.tolist()), self._references(np.asarray(prediction.label_ids)))

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Scores of texts by name, from 0 to 100."""
        scores: dict[str, float] = {}
        for metric in self._metrics:
            scores |= metric.score(predictions, references)
        return {name: scores[name] for name in self.names}

    def _references(self, labels: np.ndarray) -> list[str]:
        rows = [tuple(row[row != IGNORED_LABEL].tolist()) for row in labels]
        unknown = iter(self.decode([list(row) for row in rows if row not in self.references]) if rows else [])
        return [self.references[row] if row in self.references else next(unknown) for row in rows]

    @property
    def signatures(self) -> dict[str, str]:
        told = {name: text for metric in self._metrics for name, text in metric.signatures.items()}
        return {name: told[name] for name in self.names if name in told}


def translation_metrics(
    processor: Any, references: Iterable[str] = (), names: Sequence[str] = TRANSLATION_METRICS
) -> TranslationMetrics:
    """The `compute_metrics` of a translation.

    Args:
        processor ([`MultimodalProcessor`]): Made the labels.
        references (`Iterable[str]`, *optional*): The texts of which labels were made, to be scored against as they are.
        names (`Sequence[str]`, *optional*): The scores to compute, as for [`TranslationMetrics`].
    """
    tokenizer = processor.tokenizer
    texts = list(references)
    ids = processor.target_ids(texts) if texts else []

    def decode(rows: list[list[int]]) -> list[str]:
        return tokenizer.batch_decode(rows, skip_special_tokens=True)

    known = dict(zip(map(tuple, ids), texts, strict=True))
    return TranslationMetrics(decode, tokenizer.pad_token_id, known, names)
