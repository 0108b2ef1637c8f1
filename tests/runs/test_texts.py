"""Texts in any language, from a table to a saved folder: tokenizers, and what a run says where one does not fit."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, PreTrainedTokenizerFast

from hf_mmalign.cli.main import main
from hf_mmalign.data.tokenizers import train_tokenizer

GREEK = ["η ταινία ήταν πολύ καλή", "δεν μου άρεσε καθόλου αυτό", "τι ωραία μέρα σήμερα", "ποτέ ξανά αυτή η ταινία"]
RUSSIAN = ["этот фильм был очень хороший", "мне совсем не понравилось", "какой прекрасный день", "больше никогда"]
RECIPE = """
dataset: table
dataset_path: {path}
dataset_options:
  columns: {{text: tweet, face: face}}
  label: mood
  splits: {{validation: 0.1, test: 0.1}}
model_type: bert_wma
hidden_size: 16
num_hidden_layers: 1
num_attention_heads: 2
intermediate_size: 16
max_steps: 1
per_device_train_batch_size: 8
robustness: false
"""


def chinese(count: int) -> list[str]:
    """Texts of characters of which a few are common and most are rare, as in the language."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 2501)
    ranks = rng.choice(2500, size=(count, 24), p=shares / shares.sum())
    return ["".join(chr(0x4E00 + rank) for rank in row) for row in ranks]


@pytest.fixture
def recipe(tmp_path):
    def write(texts: list[str], count: int = 80) -> Path:
        with open(tmp_path / "rows.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["tweet", "face", "mood"])
            writer.writerows(
                [texts[row % len(texts)], json.dumps([row % 3, row % 5]), ("bad", "good")[row % 2]]
                for row in range(count)
            )
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.format(path=tmp_path / "rows.csv"), encoding="utf-8")
        return path

    return write


def train(recipe: Path, *arguments: str) -> Path:
    output = recipe.parent / "run"
    assert main(["train", str(recipe), "--output_dir", str(output), *arguments]) == 0
    return output


def inspected(recipe: Path, capsys, *arguments: str) -> str:
    """What `data inspect` prints of the table of a recipe."""
    options = ["columns={text: tweet, face: face}", "label=mood", "splits={validation: 0.1, test: 0.1}"]
    arguments = [*arguments, *(word for option in options for word in ("--option", option))]
    capsys.readouterr()
    assert main(["data", "inspect", "table", str(recipe.parent / "rows.csv"), *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("texts", [GREEK, RUSSIAN, [f"{one} {two}" for one, two in zip(GREEK, RUSSIAN, strict=True)]])
@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_a_trained_tokenizer_knows_the_texts(recipe, caplog, texts, kind):
    folder = train(recipe(texts), "--tokenizer_type", kind)
    assert "training texts" not in caplog.text
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(texts[0])["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.unk_token_id not in ids
    if kind == "sentencepiece":
        assert tokenizer.decode(ids, skip_special_tokens=True) == texts[0]  # with its accents
    config = AutoModelForSequenceClassification.from_pretrained(folder).config
    assert config.vocab_size == len(tokenizer)
    assert (config.cls_token_id, config.sep_token_id) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_the_vocabulary_of_chinese_follows_the_texts(recipe, caplog, kind):
    folder = train(recipe(chinese(800), 800), "--tokenizer_type", kind)
    assert "training texts" not in caplog.text
    assert len(AutoTokenizer.from_pretrained(folder)) > 1500


def test_many_unknown_tokens_are_said_once(recipe, caplog, capsys):
    path = recipe(chinese(800), 800)
    folder = train(path, "--tokenizer_vocab_size", "500")
    # By record: a handler that an earlier test has left on a logger writes the same one twice.
    said = {id(record) for record in caplog.records if "of the training texts' tokens are unknown" in record.message}
    assert len(said) == 1
    assert "leave tokenizer_vocab_size out" in caplog.text
    assert "tokenizer_type: sentencepiece" in caplog.text
    share = float(caplog.text.split("% of the training texts' tokens")[0].split()[-1])
    assert share > 2
    assert f"{share}% unknown" in inspected(path, capsys, "--tokenizer", str(folder))


def test_cut_texts_are_said_with_their_share(recipe, caplog, capsys):
    path = recipe([*["short text"] * 3, "a text that is a good deal longer than the others are"])
    folder = train(path, "--max_text_length", "6")
    assert "the longest has 14. A larger max_text_length" in caplog.text
    share = float(caplog.text.split("% of the training texts are longer than the 6 tokens")[0].split()[-1])
    assert share == pytest.approx(25, abs=10)
    printed = inspected(path, capsys, "--tokenizer", str(folder), "--max_length", "6")
    assert f"{share}% longer than 6 tokens" in printed


def test_texts_that_fit_are_passed_in_silence(recipe, caplog):
    train(recipe(["short text", "another one"]), "--max_text_length", "6")
    assert "training texts" not in caplog.text


def test_a_tokenizer_of_one_s_own(recipe, tmp_path):
    own = tmp_path / "tokenizer"
    train_tokenizer(GREEK).save_pretrained(own)
    folder = train(recipe(GREEK), "--tokenizer_name_or_path", str(own))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(own).get_vocab()
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.vocab_size == len(tokenizer)


def without_special_tokens(folder: Path) -> None:
    vocab = {"a": 0, "[UNK]": 1}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda folder: None, [], "no tokenizer can be read from"),
        (lambda folder: BertConfig().save_pretrained(folder), [], "has no tokenizer's files"),
        (without_special_tokens, [], "has no pad_token, cls_token, sep_token"),
        (train_tokenizer(GREEK).save_pretrained, ["--tokenizer_vocab_size", "60"], "give one of the two"),
    ],
)
def test_a_tokenizer_that_cannot_be_used(recipe, tmp_path, capsys, make, arguments, message):
    make(tmp_path / "tokenizer")
    path = recipe(GREEK)
    arguments = ["--tokenizer_name_or_path", str(tmp_path / "tokenizer"), *arguments]
    assert main(["train", str(path), "--output_dir", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert "tokenizer_name_or_path" in error
    assert message in error


def test_a_checkpoint_keeps_its_tokenizer(recipe, tmp_path, capsys):
    path = recipe(GREEK)
    checkpoint = train(path)
    train_tokenizer(RUSSIAN).save_pretrained(tmp_path / "tokenizer")
    arguments = ["--model_name_or_path", str(checkpoint), "--tokenizer_name_or_path", str(tmp_path / "tokenizer")]
    assert main(["train", str(path), "--output_dir", str(tmp_path / "second"), *arguments]) == 2
    assert "leave tokenizer_name_or_path out" in capsys.readouterr().err


def test_a_checkpoint_without_a_tokenizer_takes_one_that_fits(recipe, tmp_path, capsys):
    path = recipe(GREEK)
    checkpoint = train(path)
    arguments = ["--model_name_or_path", str(checkpoint), "--tokenizer_name_or_path", str(tmp_path / "tokenizer")]
    arguments += ["--output_dir", str(tmp_path / "second")]
    for file in checkpoint.glob("*token*"):
        file.rename(tmp_path / file.name)
    train_tokenizer(GREEK + RUSSIAN).save_pretrained(tmp_path / "tokenizer")
    assert main(["train", str(path), *arguments]) == 2
    assert "tokens, but the checkpoint" in capsys.readouterr().err
    train_tokenizer(GREEK).save_pretrained(tmp_path / "tokenizer")
    assert main(["train", str(path), *arguments]) == 0
    assert (tmp_path / "second" / "tokenizer.json").is_file()


def test_a_vocabulary_too_small_for_sentencepiece(recipe, capsys):
    path = recipe(GREEK)
    arguments = ["--tokenizer_type", "sentencepiece", "--tokenizer_vocab_size", "10"]
    assert main(["train", str(path), "--output_dir", str(path.parent / "run"), *arguments]) == 2
    assert "a vocabulary of 10 is too small for sentencepiece" in capsys.readouterr().err


def test_inspection_counts_tokens(recipe, tmp_path, capsys):
    path = recipe(["a b", "a b c d e xx"])
    train_tokenizer(["a b c d e a b c d e"]).save_pretrained(tmp_path / "tokenizer")
    output = inspected(path, capsys, "--tokenizer", str(tmp_path / "tokenizer"), "--max_length", "5", "--json")
    text = json.loads(output)["splits"]["train"]["modalities"]["text"]
    share = text["too_long"]
    assert 0.3 < share < 0.7
    assert text["limit"] == 5
    assert (text["tokens"]["min"], text["tokens"]["max"]) == (4, 8)
    assert text["tokens"]["mean"] == pytest.approx(4 + 4 * share)
    assert text["unknown"] == pytest.approx(share / (2 + 4 * share))


def test_inspection_without_text_or_tokenizer(tmp_path, capsys):
    train_tokenizer(["a"]).save_pretrained(tmp_path / "tokenizer")
    assert main(["data", "inspect", "digits-views", "--tokenizer", str(tmp_path / "tokenizer")]) == 2
    assert "there is no text to count tokens of" in capsys.readouterr().err
    assert main(["data", "inspect", "digits-captions", "--max_length", "5"]) == 2
    assert "needs a --tokenizer" in capsys.readouterr().err
    assert main(["data", "inspect", "digits-captions", "--tokenizer", str(tmp_path / "none")]) == 2
    assert "no tokenizer can be read from" in capsys.readouterr().err
