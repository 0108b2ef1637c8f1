"""Translation from a recipe to a folder, and what is done with the folder."""

import json
import shutil

import pytest
import yaml
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_mmalign import runs
from hf_mmalign.cli.main import main
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.loading import load_multimodal_dataset
from hf_mmalign.runs.errors import RecipeError

FEW = {"max_train_samples": 320, "max_eval_samples": 60, "num_train_epochs": 16, "robustness": False}
# As training goes, nothing is looked at: evaluating each epoch would double the time.
QUIET = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """With the picture; some seconds of training, which six tests share."""
    return runs.train("translation/digits", output_dir=str(tmp_path_factory.mktemp("run") / "digits"), **FEW | QUIET)


def share_right(run) -> float:
    """Of test sentences whose translation is the reference, letter by letter."""
    rows = [run.dataset["test"][index] for index in range(60)]
    said = runs.predict(run.folder, [{"text": row["text"], "image": row["image"]} for row in rows])
    return sum(line["prediction"] == row["target"] for line, row in zip(said, rows, strict=True)) / len(rows)


def test_with_the_picture_the_translation_is_right_and_without_it_cannot_be(translator, tmp_path):
    alone = runs.train("translation/digits-text", output_dir=str(tmp_path / "text"), **FEW | QUIET)
    assert share_right(translator) > 0.9
    rows = [alone.dataset["test"][index] for index in range(60)]
    said = runs.predict(alone.folder, [{"text": row["text"]} for row in rows])
    assert sum(line["prediction"] == row["target"] for line, row in zip(said, rows, strict=True)) <= 40
    assert translator.results["test"]["bleu"] > alone.results["test"]["bleu"] + 10
    assert translator.results["test"]["loss_task"] < alone.results["test"]["loss_task"]


def test_the_folder_is_complete_and_loads_in_stock_classes(translator):
    folder = translator.folder
    results = json.loads((folder / "results.json").read_text())
    assert results["primary_metric"] == "bleu"
    assert "tok:13a" in results["signatures"]["bleu"]
    assert set(results["test"]) >= {"bleu", "bleu_1", "bleu_4", "bleu_intl", "chrf", "meteor", "loss", "loss_task"}
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.generation_config.max_length == 48  # as it was evaluated
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("eine rote Drei")["input_ids"], skip_special_tokens=True) == "eine rote Drei"
    card = (folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "for translation from text and image",
        "early fusion by concatenation",
        "METEOR (exact)",
        results["signatures"]["bleu_intl"],
        "runs.predict",
    ):
        assert words in card, words


def test_a_saved_folder_is_evaluated_as_it_was_in_training(translator, capsys):
    assert main(["evaluate", str(translator.folder), "--split", "validation"]) == 0
    said = capsys.readouterr().out
    assert f"bleu: {translator.results['validation']['bleu']:.4f}" in said
    assert "bleu: nrefs:1|case:mixed" in said
    saved = json.loads((translator.folder / "evaluation_validation.json").read_text())
    for name in ("bleu", "chrf", "meteor", "loss"):
        assert saved[name] == pytest.approx(translator.results["validation"][name], rel=1e-3)


def test_the_scores_that_a_recipe_or_a_command_chooses(translator, tmp_path, capsys):
    """As `metrics` does for classes: nothing else is computed, and each score of sacreBLEU has its signature."""
    files = []
    for name, scores in (("multi30k", {"bleu", "bleu_4", "meteor"}), ("bleu", {"bleu", "bleu_intl"})):
        assert main(["evaluate", str(translator.folder), "--metrics", name]) == 0
        saved = json.loads((translator.folder / "evaluation_test.json").read_text())
        assert set(saved) - {"signatures", "loss", "loss_task"} == scores
        assert set(saved["signatures"]) == scores - {"meteor"}
        said = capsys.readouterr().out
        assert all(f"{score}: {signature}" in said for score, signature in saved["signatures"].items())
        files.append(saved)
    assert files[0]["bleu"] == pytest.approx(files[1]["bleu"])
    assert files[0]["bleu"] == pytest.approx(translator.results["test"]["bleu"])
    assert main(["evaluate", str(translator.folder), "--metrics", "sims"]) == 2
    assert "metrics: sims is for regression of one target, and this is a translation" in capsys.readouterr().err
    few = {"max_train_samples": 32, "max_eval_samples": 8, "num_train_epochs": 1, "robustness_seeds": [0]}
    chosen = runs.train("translation/smoke", output_dir=str(tmp_path / "run"), metrics="how2", **few)
    scores = {"bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4"}
    assert set(chosen.results["test"]) - {"loss", "loss_task"} == scores == set(chosen.results["signatures"])
    assert set(chosen.report.metric_names) == scores
    assert "METEOR" not in (chosen.folder / "README.md").read_text()


def test_a_folder_that_a_script_saved_is_told_its_data(translator, tmp_path):
    folder = shutil.copytree(translator.folder, tmp_path / "saved")
    (folder / "recipe.yaml").unlink()
    found = runs.evaluate(folder, dataset="digits-translation", max_eval_samples=60)
    assert found["bleu"] == pytest.approx(translator.results["test"]["bleu"])
    with pytest.raises(DataError, match="the labels are for single_label_classification, the model is for translation"):
        runs.evaluate(folder, dataset="digits-captions", max_eval_samples=60)


def test_robustness_shows_what_the_picture_is_for(translator):
    report = runs.robustness(
        translator.folder, max_eval_samples=40, noise_amplitude=None, missing_ratio=1.0, missing_ratios=[1.0]
    )
    without = {c.modality: scores["bleu"].mean for c, scores in report.scores.items() if c.kind == "missing"}
    clean = next(scores["bleu"].mean for c, scores in report.scores.items() if c.kind == "clean")
    assert clean > 90
    assert without["image"] < clean - 10
    assert without["text"] < without["image"]


def test_a_table_of_ones_own_is_translated_line_by_line(translator, tmp_path, capsys):
    table = tmp_path / "rows.jsonl"
    table.write_text(
        '{"id": "a", "text": "a warm three on white paper"}\n{"id": "b", "text": "a cold one on black paper"}\n'
    )
    assert main(["predict", str(translator.folder), str(table)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == ["a", "b"]
    assert lines[0]["prediction"].endswith("Drei auf weißem Papier")
    assert lines[0]["modalities"] == ["text"]
    assert "probabilities" not in lines[0]
    assert main(["predict", str(translator.folder), str(table), "--output", str(tmp_path / "said.jsonl")]) == 0
    assert [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()] == lines


def recipe(tmp_path, **keys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"base": "translation/smoke", "output_dir": str(tmp_path / "run")} | keys))
    return str(path)


def test_a_vocabulary_made_before_is_taken(tmp_path):
    folder = tmp_path / "tokenizer"
    assert main(["data", "train-tokenizer", "digits-translation", "--output", str(folder)]) == 0
    run = runs.train(
        "translation/smoke",
        output_dir=str(tmp_path / "run"),
        tokenizer_name_or_path=str(folder),
        **QUIET,
        robustness=False,
    )
    assert run.processor.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(folder).get_vocab()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dataset": "digits-captions"}, "is for translation, but the data set digits-captions is for single_label"),
        ({"tokenizer_type": "wordpiece"}, "wordpiece loses case and spaces"),
        ({"metric_for_best_model": "accuracy"}, "this task has the metrics .'bleu'"),
        ({"text_config": {"model_type": "bert"}}, "expected the config of an encoder–decoder"),
        ({"generation_max_lenght": 20}, "Did you mean 'generation_max_length'"),
        ({"metrics": "emotion"}, "emotion is for single-label classification, and this is a translation"),
    ],
)
def test_what_does_not_fit_is_said_before_training(tmp_path, keys, message):
    with pytest.raises((RecipeError, ValueError), match=message):
        runs.train("translation/smoke", output_dir=str(tmp_path / "run"), **keys)


def test_a_model_of_classes_refuses_translations(tmp_path):
    with pytest.raises(RecipeError, match="is for labels, but the data set digits-translation is for translation"):
        runs.train("wma/smoke", output_dir=str(tmp_path / "run"), dataset="digits-translation")


def test_a_look_at_the_data(capsys):
    assert main(["data", "inspect", "digits-translation"]) == 0
    said = capsys.readouterr().out
    assert "task        translation" in said
    assert "target      words 6" in said


def test_targets_that_are_missing_in_training_are_found(tmp_path):
    from hf_mmalign.data.validation import validate_dataset

    data = load_multimodal_dataset("digits-translation")
    data["train"] = data["train"].map(
        lambda row, index: {"target": None if index == 3 else row["target"]}, with_indices=True
    )
    with pytest.raises(DataError, match=r"row 3, field 'train.target': a training row needs a translation"):
        validate_dataset(data, {"text": "text"}, "translation", 1)
