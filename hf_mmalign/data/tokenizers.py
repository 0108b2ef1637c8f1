"""Tokenizers: made from the texts of a training split, or read from a folder or the Hub; and how they fit texts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import sentencepiece
from datasets import Dataset, IterableDataset
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

from .errors import DataError, shown
from .schema import TARGET
from .validation import column_batches

TokenizerType = Literal["wordpiece", "sentencepiece"]

# The files by which a folder or Hub repository is known to have a tokenizer.
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.txt")

# Roles of special tokens in the manner of BERT, and of encoder–decoders, in the order of their ids.
_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_SPECIAL_OF_SEQ2SEQ = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
# Of the characters of the texts, as sentencepiece's authors advise for scripts of thousands: what is left are misprints
# and characters seen too seldom to be learnt.
_COVERAGE = 0.9995
_LARGEST_CHOSEN = 30_000
# sentencepiece leaves out longer texts, without a word.
_LONGEST_TEXT_BYTES = 100_000_000
_MOST_TEXTS = 200_000


def train_tokenizer(
    texts: Iterable[str], vocab_size: int | None = None, lowercase: bool = True
) -> PreTrainedTokenizerFast:
    """Build a BERT-style WordPiece tokenizer from texts, offline, the same from the same texts.

    The vocabulary is the special tokens, every character, and the most frequent words; a rarer word is spelt out. That
    suits the small vocabularies of models trained from scratch. (The trainers of the `tokenizers` library learn subwords
    too, but their ties fall at random, so that two runs with one seed would differ in their token ids.)

    Args:
        texts (`Iterable[str]`): The training split's texts; pass no others, or their words leak.
        vocab_size (`int`, *optional*):
            Upper bound on the vocabulary, the five special tokens included. By default it follows the texts: the
            characters that make up 99.95 % of them, and all words seen twice; at most 30 000.
        lowercase (`bool`): Lower the case, and strip accents with it, as BERT's uncased tokenizers do.

    Returns:
        `PreTrainedTokenizerFast` that wraps a text as `[CLS] … [SEP]`, a pair as `[CLS] … [SEP] … [SEP]` with token
        types 0 and 1.
    """
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)))
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for piece in (word[0], *(f"##{character}" for character in word[1:])):
            characters[piece] += count
    if vocab_size is None:
        vocab_size = _LARGEST_CHOSEN
        pieces = _by_frequency(characters)[: _covering(characters)]
        words = Counter({word: count for word, count in words.items() if count > 1})
    else:
        pieces = _by_frequency(characters)
    tokens = dict.fromkeys([*_SPECIAL.values(), *pieces, *_by_frequency(words)])
    vocab = {token: index for index, token in enumerate(list(tokens)[:vocab_size])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    return _as_bert(tokenizer)


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int | None = None, lowercase: bool = True
) -> PreTrainedTokenizerFast:
    """Train a sentencepiece unigram model from texts, offline, the same from the same texts.

    It needs no spaces between words and keeps every mark of a script. What is saved is a `tokenizer.json`; sentencepiece
    is not needed to read it.

    Args:
        texts (`Iterable[str]`): The training split's texts; all are held in memory.
        vocab_size (`int`, *optional*):
            Upper bound on the vocabulary, the five special tokens included; sentencepiece stops earlier where the texts
            give no more. By default it follows the texts, as for :func:`train_tokenizer`.
        lowercase (`bool`): Lower the case; accents stay.

    Returns:
        `PreTrainedTokenizerFast` that wraps texts as that of :func:`train_tokenizer` does.

    Raises:
        DataError: If there is no text, or `vocab_size` has no room for the characters that make up 99.95 % of the texts.
    """
    return _as_bert(_unigram(texts, vocab_size, lowercase, _SPECIAL))


def train_seq2seq_tokenizer(
    texts: Iterable[str], vocab_size: int | None = None, lowercase: bool = False
) -> PreTrainedTokenizerFast:
    """Train a sentencepiece unigram model for an encoder–decoder, offline, the same from the same texts.

    Args:
        texts (`Iterable[str]`): The training split's texts, of both languages where they share a vocabulary.
        vocab_size (`int`, *optional*): As for :func:`train_sentencepiece`, with four special tokens.
        lowercase (`bool`): Lower the case; then translations are in lower case too.

    Returns:
        `PreTrainedTokenizerFast` that ends every text in `</s>`, as those of Marian and T5 do; `<pad>` has id 0, `</s>` 1,
        `<unk>` 2 and `<s>`, with which a decoder may start, 3.

    Raises:
        DataError: As :func:`train_sentencepiece`.
    """
    return _as_seq2seq(_unigram(texts, vocab_size, lowercase, _SPECIAL_OF_SEQ2SEQ))


def _unigram(texts: Iterable[str], vocab_size: int | None, lowercase: bool, special: dict[str, str]) -> Tokenizer:
    """A unigram model of at most `vocab_size` tokens, the special ones first."""
    normalizer = _sentencepiece_normalizer(lowercase)
    lines = [line for line in map(normalizer.normalize_str, texts) if line]
    if not lines:
        raise DataError("there is no text to train a tokenizer on")
    characters = Counter("▁" * len(lines))
    for line in lines:
        characters.update(line.replace(" ", "▁"))
    needed = _covering(characters) + len(special)
    if vocab_size is None:
        vocab_size = min(needed + _words_seen_twice(lines), max(needed, _LARGEST_CHOSEN))
    elif vocab_size < needed:
        raise DataError(
            f"a vocabulary of {vocab_size} is too small for sentencepiece: {needed - len(special)} characters make up "
            f"{_COVERAGE:.2%} of the texts, and with the special tokens it takes {needed} at least. Left out, "
            "tokenizer_vocab_size is chosen from the texts"
        )
    pieces = _unigram_pieces(lines, vocab_size - len(special))
    vocab = [(token, 0.0) for token in special.values()] + pieces
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=list(special).index("unk_token")))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


TRAINERS = {"wordpiece": train_tokenizer, "sentencepiece": train_sentencepiece}


def train_tokenizer_on(
    data: Dataset | IterableDataset, kind: TokenizerType, vocab_size: int | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer from the column `text` of a training split; sentencepiece's from 200 000 evenly spaced rows at most.

    A stream is read once.
    """
    texts = spaced_texts(data, None if kind == "wordpiece" else _MOST_TEXTS)
    return TRAINERS[kind]((text for batch in texts for text in batch), vocab_size)


def as_json(tokenizer: PreTrainedTokenizerFast) -> str:
    """A tokenizer that was trained here, as text."""
    return tokenizer.backend_tokenizer.to_str()


def from_json(text: str, seq2seq: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of :func:`as_json`; `seq2seq` says whether it was made by :func:`train_seq2seq_tokenizer`."""
    return (_as_seq2seq if seq2seq else _as_bert)(Tokenizer.from_str(text))


def train_seq2seq_tokenizer_on(
    data: Dataset,
    vocab_size: int | None = None,
    lowercase: bool = False,
    columns: Sequence[str] = ("text", TARGET),
) -> PreTrainedTokenizerFast:
    """A tokenizer from the columns `text` and `target` of a training split together, or from one of them; of each from
    200 000 evenly spaced rows at most."""
    texts = (text for column in columns for batch in spaced_texts(data, _MOST_TEXTS, column) for text in batch)
    return train_seq2seq_tokenizer(texts, vocab_size, lowercase)


def load_tokenizer(name_or_path: str, field: str) -> PreTrainedTokenizerBase:
    """A tokenizer of a folder or the Hub.

    Raises:
        DataError: Under the name `field`, if there is none.
    """
    try:
        has_files = has_tokenizer(name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError, KeyError) as error:
        message = f"no tokenizer can be read from {shown(name_or_path)}, a folder or a name on the Hub: {error}"
        raise DataError(message, field=field) from error
    if not has_files and len(tokenizer) <= len(tokenizer.all_special_tokens):
        # transformers makes an empty tokenizer where a folder has a config alone.
        raise DataError(f"{shown(name_or_path)} has no tokenizer's files", field=field)
    return tokenizer


def has_tokenizer(name_or_path: str) -> bool:
    """Whether a folder or Hub repository holds a tokenizer's files."""
    return any(cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False) for file in TOKENIZER_FILES)


def spaced_texts(data: Dataset | IterableDataset, most: int | None, column: str = "text") -> Iterator[list[str]]:
    """The texts of at most `most` evenly spaced rows (None: of all), in batches; rows without text are left out.

    A stream, whose length nobody knows, is read to its end; its evenly spaced rows are then a list in memory.
    """
    if most is None:
        for _, array in column_batches(data, column):
            yield array.drop_null().to_pylist()
    elif isinstance(data, IterableDataset):
        yield [text for text in _thinned(data, most, column) if text is not None]
    else:
        yield from spaced_texts(data.select(_spaced(len(data), most)) if len(data) > most else data, None, column)


def _thinned(data: IterableDataset, most: int, column: str) -> list[str | None]:
    """Every row is taken until they are twice too many; then every second is dropped, and so on."""
    taken: list[str | None] = []
    step = 1
    for first_row, array in column_batches(data, column):
        taken += array.take(np.arange(-first_row % step, len(array), step)).to_pylist()
        while len(taken) >= 2 * most:
            taken, step = taken[::2], 2 * step
    return [taken[row] for row in _spaced(len(taken), most)] if len(taken) > most else taken


def _spaced(count: int, most: int) -> np.ndarray:
    return np.linspace(0, count - 1, most).astype(int)


def first_texts(data: IterableDataset, most: int) -> Iterator[list[str]]:
    """The texts of a stream's first `most` rows, in batches."""
    for first_row, array in column_batches(data, "text"):
        yield array[: most - first_row].drop_null().to_pylist()
        if first_row + len(array) >= most:
            return


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[np.ndarray, int]:
    """Tokens of each text, [CLS] and [SEP] included, (N,) int64; and how many tokens of them all are unknown."""
    encoded = tokenizer(texts, verbose=False)["input_ids"] if texts else []
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in encoded)
    return np.array([len(ids) for ids in encoded], dtype=np.int64), unknown


@dataclass
class TextFit:
    """How a tokenizer fits texts: how many tokens of them (without [CLS] and [SEP]) it does not know, how many texts are
    longer than a limit in tokens (with them), and the longest."""

    texts: int = 0
    tokens: int = 0
    unknown: int = 0
    too_long: int = 0
    longest: int = 0

    def add(self, tokenizer: PreTrainedTokenizerBase, texts: list[str], limit: int | None) -> np.ndarray:
        """Count further texts; returns the tokens of each, (N,) int64."""
        lengths, unknown = count_tokens(tokenizer, texts)
        if len(lengths):
            self.texts += len(lengths)
            self.tokens += int(lengths.sum()) - len(lengths) * tokenizer.num_special_tokens_to_add()
            self.unknown += unknown
            self.too_long += 0 if limit is None else int((lengths > limit).sum())
            self.longest = max(self.longest, int(lengths.max()))
        return lengths

    @property
    def unknown_share(self) -> float:
        return self.unknown / max(self.tokens, 1)

    @property
    def too_long_share(self) -> float:
        return self.too_long / max(self.texts, 1)


def _sentencepiece_normalizer(lowercase: bool) -> normalizers.Normalizer:
    """What texts go through before training and before use alike."""
    steps = [normalizers.NFKC(), *([normalizers.Lowercase()] if lowercase else [])]
    # sentencepiece leaves out texts with a null or with its own boundary sign.
    return normalizers.Sequence([*steps, normalizers.Replace(Regex(r"[\x00▅\s]+"), " "), normalizers.Strip()])


def _unigram_pieces(lines: list[str], count: int) -> list[tuple[str, float]]:
    """At most `count` pieces of a unigram model with their log-probabilities."""
    file = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            model_type="unigram",
            vocab_size=count + 1,  # its own unknown piece
            hard_vocab_limit=False,
            character_coverage=_COVERAGE,
            normalization_rule_name="identity",
            max_sentence_length=_LONGEST_TEXT_BYTES,
            num_threads=1,  # with several, ties fall at random
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(f"sentencepiece cannot be trained on the texts: {error}") from error
    trained = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    return [(trained.id_to_piece(index), trained.get_score(index)) for index in range(1, len(trained))]


def _words_seen_twice(lines: list[str]) -> int:
    """Words, and characters of scripts without spaces, that occur more than once."""
    normalizer = normalizers.BertNormalizer(lowercase=False)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for line in lines:
        words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(line)))
    return sum(count > 1 for count in words.values())


def _covering(characters: Counter[str]) -> int:
    """How many of the most frequent characters make up 99.95 % of all."""
    counts = np.array(sorted(characters.values(), reverse=True))
    return int(np.searchsorted(np.cumsum(counts), _COVERAGE * counts.sum())) + 1 if len(counts) else 0


def _by_frequency(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda item: (-counts[item], item))


def _as_bert(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap texts as BERT's tokenizers do, and give the special tokens their roles."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **_SPECIAL,
    )


def _as_seq2seq(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """End a text as Marian's and T5's tokenizers do, and give the special tokens their roles."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **_SPECIAL_OF_SEQ2SEQ,
    )
