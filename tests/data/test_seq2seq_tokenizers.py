"""Vocabularies for translation: what they are, and the command that trains them."""

import pytest
from transformers import AutoTokenizer

from hf_mmalign.cli.main import main
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.tokenizers import train_seq2seq_tokenizer

PAIRS = [
    "A man in a red coat walks his dog.",
    "Ein Mann in einem roten Mantel geht mit seinem Hund spazieren.",
    "Two dogs play near the fence, quietly.",
    "Zwei Hunde spielen leise am weißen Zaun.",
    "Un garçon joue à la plage.",
]


def test_special_tokens_have_the_ids_that_an_encoder_decoder_expects():
    tokenizer = train_seq2seq_tokenizer(PAIRS)
    ids = tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id
    assert ids == (0, 1, 2, 3)
    encoded = tokenizer(PAIRS[0])["input_ids"]
    assert encoded[-1] == 1
    assert encoded.count(1) == 1


def test_a_text_comes_back_with_its_case_accents_and_spaces():
    tokenizer = train_seq2seq_tokenizer(PAIRS)
    ids = tokenizer(PAIRS)["input_ids"]
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == PAIRS
    lower = train_seq2seq_tokenizer(PAIRS, lowercase=True)
    assert lower.decode(lower("Zwei Hunde")["input_ids"], skip_special_tokens=True) == "zwei hunde"


def test_the_same_texts_make_the_same_vocabulary_in_whatever_order_they_are_asked():
    assert train_seq2seq_tokenizer(PAIRS).get_vocab() == train_seq2seq_tokenizer(list(PAIRS)).get_vocab()


def test_a_vocabulary_that_has_no_room_for_the_characters_is_refused():
    with pytest.raises(DataError, match="too small for sentencepiece"):
        train_seq2seq_tokenizer(PAIRS, vocab_size=10)


def vocabulary(folder, *arguments):
    assert main(["data", "train-tokenizer", "digits-translation", "--output", str(folder), *arguments]) == 0
    return AutoTokenizer.from_pretrained(folder)


def test_the_command_trains_one_of_both_languages_or_of_one(tmp_path, capsys):
    both = vocabulary(tmp_path / "both", "--vocab-size", "90")
    assert len(both) <= 90
    assert f"{len(both)} tokens, from 1258 training rows" in capsys.readouterr().out
    for text in ("a warm three on white paper", "eine grüne Fünf auf weißem Papier"):
        assert both.unk_token_id not in both(text)["input_ids"]
    target = vocabulary(tmp_path / "target", "--columns", "target")
    assert target.unk_token_id not in target("grüne Fünf")["input_ids"]
    assert target.unk_token_id in target("picture shows y")["input_ids"]


def test_the_command_makes_one_like_berts_for_labelled_texts(tmp_path):
    folder = tmp_path / "tokenizer"
    assert main(["data", "train-tokenizer", "digits-captions", "--output", str(folder)]) == 0
    assert AutoTokenizer.from_pretrained(folder).tokenize("a red digit")[0] == "a"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits-views"], "there is no text"),
        (["digits-captions", "--columns", "text"], "are for texts to be translated"),
        (["digits-translation", "--type", "wordpiece"], "loses case and spaces"),
        (["digits-translation", "--vocab-size", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_trained_is_said(arguments, message, tmp_path, capsys):
    assert main(["data", "train-tokenizer", *arguments, "--output", str(tmp_path)]) != 0
    assert message in capsys.readouterr().err
