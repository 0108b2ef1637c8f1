"""Tokenizers that are made from texts."""

import pytest
from transformers import AutoTokenizer

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.tokenizers import train_sentencepiece, train_tokenizer

TEXTS = [
    "What is the blue shape?",
    "the blue shapes are bluer",
    "Ο καφές είναι μπλε",
    "หนังเรื่องนี้ดีมาก",
    "हिन्दी में फ़िल्म",
] * 3


def test_sentencepiece_gives_back_what_it_was_given():
    tokenizer = train_sentencepiece(TEXTS)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.lower()
    assert tokenizer.unk_token_id in tokenizer("Ж")["input_ids"]


def test_sentencepiece_wraps_texts_as_bert_does():
    tokenizer = train_sentencepiece(TEXTS)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2, 3, 4]
    pair = tokenizer("the blue", "shape")
    tokens = tokenizer.convert_ids_to_tokens(pair["input_ids"])
    assert (tokens[0], tokens[-1], tokens.count("[SEP]")) == ("[CLS]", "[SEP]", 2)
    assert pair["token_type_ids"][-1] == 1


def test_sentencepiece_is_the_same_again_and_after_a_reload(tmp_path):
    tokenizer = train_sentencepiece(TEXTS)
    assert train_sentencepiece(iter(TEXTS)).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert loaded.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("text", ["a long text with many words " * 200, "with a\x00null ▅ and\nlines"])
def test_sentencepiece_takes_texts_that_it_would_leave_out(text):
    tokenizer = train_sentencepiece([text])
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_sentencepiece_needs_text(texts):
    with pytest.raises(DataError, match="no text to train"):
        train_sentencepiece(texts)


def test_a_vocabulary_is_an_upper_bound_or_follows_the_texts():
    few, many = (
        [f"word{index % 10} again" for index in range(400)],
        [f"word{index % 200} again" for index in range(400)],
    )
    for train in (train_tokenizer, train_sentencepiece):
        assert len(train(many, 60)) <= 60
        assert len(train(few)) < len(train(many)) < 300
    assert "word199" in train_tokenizer(many).get_vocab()
    assert "once" not in train_tokenizer([*many, "once"]).get_vocab()  # a word seen once is spelt out
