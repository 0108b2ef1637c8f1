"""`hf-mmalign plot word-drop`, and training on what it asks for."""

import json

import pytest
import torch
from PIL import Image

from hf_mmalign import MultimodalTrainingArguments, runs
from hf_mmalign.cli.main import main
from hf_mmalign.data.processor import MultimodalProcessor
from hf_mmalign.perturbation.noisy_data import RowNoise
from hf_mmalign.perturbation.protocols import UnknownWords
from hf_mmalign.runs.errors import RecipeError

FEW = ["--max_train_samples", "160", "--max_eval_samples", "24", "--num_train_epochs", "8", "--robustness", "false"]
QUIET = [
    "--eval_strategy",
    "no",
    "--save_strategy",
    "no",
    "--load_best_model_at_end",
    "false",
    "--disable_tqdm",
    "true",
]
TEXT = {"text": "text"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A sweep's folder: two seeds of early fusion, one of text alone."""
    folder = tmp_path_factory.mktemp("study")
    for name, recipe, seed in (("concat", "digits", 0), ("concat", "digits", 1), ("text", "digits-text", 0)):
        to = ["--output_dir", str(folder / name / f"seed={seed}"), "--seed", str(seed)]
        assert main(["train", f"translation/{recipe}", *to, *FEW, *QUIET]) == 0
    return folder


def test_runs_of_one_recipe_are_one_line_with_their_spread(study, tmp_path, capsys):
    folders = [str(study / name) for name in ("concat/seed=0", "text/seed=0", "concat/seed=1")]
    output = tmp_path / "pictures" / "drop.png"
    command = ["plot", "word-drop", *folders, "--output", str(output), "--probabilities", "0.9", "0", "1"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [str(output), str(output.with_suffix(".json"))]
    assert min(Image.open(output).size) > 300
    told = json.loads(output.with_suffix(".json").read_text())
    assert told["probabilities"] == [0, 0.9, 1]
    assert (told["num_samples"], told["split"], told["metric"]) == (24, "test", "bleu")
    assert "tok:13a" in told["signature"]
    concat, text = told["models"]["concat"], told["models"]["text"]
    assert concat["runs"] == [folders[0], folders[2]]
    assert text["std"] == [None] * 3
    first, second = (concat["values"][folder] for folder in concat["runs"])
    assert concat["mean"] == pytest.approx([(one + other) / 2 for one, other in zip(first, second, strict=True)])
    assert concat["std"][0] == pytest.approx(abs(first[0] - second[0]) / 2**0.5)
    # Nothing dropped is what `evaluate` finds.
    for run, values in (concat["values"] | text["values"]).items():
        assert values[0] == pytest.approx(runs.evaluate(run)["bleu"], abs=1e-6)
    assert text["mean"][2] < text["mean"][0]


def test_every_model_misses_the_same_words_and_more_at_higher_probabilities():
    texts = [f"word{i} and another {i} of these words" for i in range(200)]

    def unknown(probability, token):
        noise = UnknownWords(probability, token)
        changed = [noise.disturb({"text": text}, TEXT, index=i)["text"].split() for i, text in enumerate(texts)]
        return [[word == token for word in words] for words in changed]

    low, high, other = unknown(0.3, "<unk>"), unknown(0.6, "<unk>"), unknown(0.3, "[UNK]")
    assert low == other
    flat = [pair for few, many in zip(low, high, strict=True) for pair in zip(few, many, strict=True)]
    assert all(many for few, many in flat if few)
    assert sum(few for few, _ in flat) / len(flat) == pytest.approx(0.3, abs=0.04)
    assert len({tuple(row) for row in low}) > 30, "every sentence has a draw of its own"


def test_a_dropped_word_is_the_unknown_token_of_the_vocabulary(study):
    tokenizer = MultimodalProcessor.from_pretrained(study / "text" / "seed=0").tokenizer
    ids = tokenizer(f"a {tokenizer.unk_token} three")["input_ids"]
    assert ids.count(tokenizer.unk_token_id) == 1
    assert [*tokenizer("a")["input_ids"][:-1], tokenizer.unk_token_id] == ids[:2]


def test_training_may_drop_words_too(tmp_path):
    noise = RowNoise.of({"unknown_words": 0.5}, {"text": "text", "audio": 3}, seed=1)
    row = {"id": 1, "text": "one two three four five six seven eight", "audio": torch.zeros(2, 3)}
    seen = {noise(row, 0, epoch)["text"] for epoch in range(5)}
    assert len(seen) > 1, "a draw for each epoch"
    assert all("<unk>" in text for text in seen)
    assert noise(row | {"text": None}, 0, 0)["text"] is None
    told = ["--train_noise", "{unknown_words: 0.3}", "--max_steps", "2"]
    assert main(["train", "translation/smoke", "--output_dir", str(tmp_path / "run"), *FEW, *QUIET, *told]) == 0
    assert "unknown_words" in (tmp_path / "run" / "README.md").read_text()
    for settings, message in (
        ({"unknown_words": 1.5}, "train_noise: unknown_words: The probability .* between 0 and 1, not 1.5"),
        ({"unknown_words": 0.5, "epsilon": 1}, "'epsilon' is no key of it"),
        ({"unknown_words": 0.5, "token": ""}, "The token of unknown words is a text"),
    ):
        with pytest.raises(ValueError, match=message):
            MultimodalTrainingArguments(str(tmp_path), train_noise=settings)


def test_what_cannot_be_compared_is_one_clear_line(study, tmp_path, capsys):
    run = str(study / "text" / "seed=0")
    classes = tmp_path / "classes"
    assert main(["train", "fusion/smoke", "--output_dir", str(classes), *FEW, *QUIET]) == 0
    capsys.readouterr()
    for arguments, message in (
        ([run, run], "A run is named twice"),
        ([str(classes)], "words are dropped in translations"),
        ([run, "--probabilities", "1.5"], "numbers from 0 to 1 are expected"),
        ([run, "--split", "dev"], "not 'dev'"),
        (["nowhere"], "nowhere holds no recipe.yaml"),
    ):
        assert main(["plot", "word-drop", *arguments]) == 2
        assert message in capsys.readouterr().err
    other = tmp_path / "other"
    few = ["--max_train_samples", "64", "--max_eval_samples", "20", "--num_train_epochs", "1", "--robustness", "false"]
    assert main(["train", "translation/digits-text", "--output_dir", str(other), *QUIET, *few]) == 0
    with pytest.raises(RecipeError, match="has other sentences in 'test' than"):
        runs.draw_word_drop([run, other], probabilities=[0])
