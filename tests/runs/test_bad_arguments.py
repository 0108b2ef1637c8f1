"""What cannot be trained is said in one line, with exit status 2, before any data are read."""

from pathlib import Path

import pytest

from hf_mmalign.cli.main import main
from hf_mmalign.runs import training

ROOT = Path(__file__).resolve().parents[2]
WMA, DECALIGN = str(ROOT / "recipes/wma/smoke.yaml"), str(ROOT / "recipes/decalign/smoke.yaml")


def refused(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("hf-mmalign: ")
    assert "Traceback" not in error
    return error


@pytest.fixture
def no_data(monkeypatch):
    def read(*positional, **keywords):
        raise AssertionError("the data were read")

    monkeypatch.setattr(training, "load_data", read)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--missing_ratio 7", "the command line: missing_ratio is 7.0; shares of the samples lie between 0 and 1"),
        ("--missing_ratios 0 -1", "missing_ratios is [0.0, -1.0]"),
        ("--missing_ratio .nan", "missing_ratio is nan"),
        ("--noise foo", "noise is 'foo' (str); expected 'gaussian' or 'uniform'"),
        ("--noise_amplitude nan", "noise_amplitude is nan; it is a finite number of at least 0"),
        ("--noise_amplitude -1", "noise_amplitude is -1.0"),
        ("--missing_mode x", "missing_mode is 'x' (str); expected 'mask' or 'zero'"),
        ("--robustness_seeds -1", "robustness_seeds is [-1]"),
        ("--robustness_seeds []", "robustness_seeds is []"),
        ("--metrics x", "metrics is 'x' (str); expected 'bleu' or 'emotion' or 'how2' or"),
        ("--wma_solver nope", "wma_solver is 'nope' (str); expected 'auto' or 'exact'"),
        ("--gradient_accumulation_steps 0", "gradient_accumulation_steps is 0; it is at least 1"),
        ("--per_device_train_batch_size 0", "per_device_train_batch_size is 0"),
        ("--per_device_eval_batch_size -2", "per_device_eval_batch_size is -2"),
        ("--num_train_epochs -1", "num_train_epochs is -1.0"),
        ("--max_train_samples 0", "max_train_samples is 0; it is at least 1"),
        ("--max_eval_samples -5", "max_eval_samples is -5"),
        ("--tokenizer_vocab_size 0", "tokenizer_vocab_size is 0"),
        ("--lora_r 0", "lora_r is 0"),
        ("--lora_dropout 1", "lora_dropout is 1.0"),
        ("--early_stopping_patience 0", "early_stopping_patience is 0"),
        (
            "--early_stopping_patience 2 --eval_strategy no --save_strategy no --load_best_model_at_end false",
            "early_stopping_patience needs evaluations",
        ),
        ("--dataset_options {label_colum: target}", "label_colum"),
        ("--dataset digits-view", "did you mean 'digits-views'"),
        ("--model_type [a]", "model_type is ['a']; expected text"),
        ("--model_type 5", "model_type is 5; expected text"),
        ("--output_dir [a]", "output_dir is ['a']; expected text"),
        ("--license no", "YAML reads yes, no, on, off, true and false as booleans"),
    ],
)
def test_of_a_run(no_data, capsys, tmp_path, arguments, message):
    output = ["--output_dir", str(tmp_path)]
    words = arguments.replace("{label_colum: target}", "{label_colum:\0target}").split(" ")
    words = [word.replace("\0", " ") for word in words]
    assert message in refused(capsys, "train", WMA, *output, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{num_genre: 5}", "mmimdb has no option 'num_genre'; did you mean 'num_genres'"),
        ("{path: elsewhere}", "mmimdb has no option 'path'"),
        ("{options: 1}", "mmimdb has no option 'options'"),
    ],
)
def test_a_reader_s_option_is_named_with_the_nearest(no_data, capsys, tmp_path, options, message):
    words = ["--dataset", "mmimdb", "--dataset_path", "x", "--dataset_options", options]
    assert message in refused(capsys, "train", WMA, *words, "--output_dir", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep: 5", "sweep is 5; expected a section"),
        ("sweep: [a]", "sweep is ['a']; expected a section"),
        ("sweep: {variants: 5}", "variants is 5; expected `name: {key: value}` lines"),
        ("sweep: {variants: [a]}", "variants is ['a']; expected `name"),
        ("sweep: {variants: {}}", "variants is {}; expected `name"),
        ("sweep: {folds: x}", "folds is 'x'; expected the number of folds"),
        ("sweep: {folds: []}", "folds is []"),
        ("sweep: {seeds: []}", "seeds is []"),
        ("sweep: {selection_seeds: {}}", "selection_seeds is [{}]; expected a list of whole numbers"),
        ("sweep: {variants: {a: {hidden_size: []}}}", "variant a: hidden_size is an empty list"),
        ("sweep: {variants: {a: {model_type: [[a]]}}}", "variant a: model_type is ['a']; expected text"),
        ("sweep: {variants: {a: {noise: loud}}}", "variant a: noise is 'loud'"),
        ("sweep: {variants: {a: {missing_ratio: 2}}}", "variant a: missing_ratio is 2.0"),
        ("sweep: {variants: {a: {num_train_epochs: -1}}}", "num_train_epochs is -1.0"),
        ("model_type: [a]", "recipe.yaml: model_type is ['a']; expected text"),
    ],
)
def test_of_a_sweep(capsys, tmp_path, text, message):
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(f"base: {DECALIGN}\noutput_dir: {output}\n{text}\n")
    assert message in refused(capsys, "sweep", str(recipe))
    assert not output.exists()


def test_a_sweep_takes_one_run_at_a_time_at_least(capsys, tmp_path):
    assert "jobs is 0; it is at least 1" in refused(capsys, "sweep", DECALIGN, "--jobs", "0")
    grid = ["--hidden_size", "[]", "--output_dir", str(tmp_path)]
    assert "hidden_size is an empty list" in refused(capsys, "sweep", DECALIGN, *grid)
