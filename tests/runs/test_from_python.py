"""`hf_mmalign.runs` from Python: recipes, dictionaries and keyword arguments in, objects out, as the command does it."""

import ast
import inspect
import json
import subprocess
import sys
from enum import Enum
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import yaml
from datasets import Dataset
from PIL import Image
from torch.testing import assert_close

import hf_mmalign
from hf_mmalign import runs
from hf_mmalign.cli.main import main
from hf_mmalign.data.errors import DataError
from hf_mmalign.evaluation.inference import predict as evaluate_rows
from hf_mmalign.runs import RecipeError, training

SMALL = {"max_train_samples": 64, "max_eval_samples": 32, "disable_tqdm": True, "robustness_seeds": [0]}
FUSION = {
    "model_type": "mmalign_fusion",
    "dataset": "digits-views",
    "hidden_size": 8,
    "num_train_epochs": 1,
    "save_strategy": "no",
    "missing_ratios": [0, 1],
    **SMALL,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> runs.TrainedRun:
    return runs.train(**FUSION, output_dir=tmp_path_factory.mktemp("fusion") / "run")


@pytest.fixture(scope="module")
def captions(tmp_path_factory) -> runs.TrainedRun:
    """A ViLT over pictures and sentences."""
    return runs.train("wma/smoke", **SMALL, output_dir=tmp_path_factory.mktemp("captions"), robustness=False)


def test_the_import_is_light_and_every_public_name_is_there():
    code = "import hf_mmalign.runs, sys; print({'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert hf_mmalign.runs is runs
    for name in runs.__all__:
        assert getattr(runs, name).__doc__, name
    assert set(runs.__all__) <= set(dir(runs))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        runs.trian  # noqa: B018


def test_no_file_has_the_name_of_a_function_that_it_would_hide():
    files = {path.stem for path in Path(runs.__file__).parent.glob("*.py")}
    assert not files & set(runs.__all__)


def test_the_command_calls_these_functions():
    tree = ast.parse(Path(inspect.getfile(main)).read_text(encoding="utf-8"))
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "runs"
    }
    assert called == {"train", "sweep", "evaluate", "robustness", "predict", "efficiency"}


def test_keywords_alone_are_a_recipe(run):
    assert json.loads((run.folder / "results.json").read_text()) == run.results
    assert runs.RecipeError is RecipeError
    assert set(run.results["test"]) >= {"accuracy", "loss"}
    assert json.loads((run.folder / "robustness.json").read_text()) == json.loads(json.dumps(run.report.to_dict()))
    assert run.report.model_name == "digits-views-mmalign_fusion"
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text())["output_dir"] == str(run.folder)
    assert list(run.dataset) == ["train", "validation", "test"]
    assert len(run.dataset["test"]) == 32
    assert not run.model.training
    assert "digits-views" not in repr(run.model)
    assert len(repr(run)) < 2000


def test_the_objects_are_those_of_the_folder(run):
    batch = run.collator([run.dataset["test"][row] for row in range(4)])
    with torch.no_grad():
        logits = run.model(**batch).logits
        again = type(run.model).from_pretrained(run.folder)(**batch).logits
    assert_close(again, logits, rtol=1e-5, atol=1e-5)
    assert run.collator.processor is run.processor


def test_a_recipe_a_dictionary_and_the_command_train_the_same(run, tmp_path):
    weights = run.model.state_dict()
    (tmp_path / "fusion.yaml").write_text(yaml.safe_dump(FUSION))
    overridden = FUSION | {"hidden_size": 16}
    command = [
        "train",
        str(tmp_path / "fusion.yaml"),
        "--output_dir",
        str(tmp_path / "command"),
        "--robustness",
        "false",
    ]
    assert main(command) == 0
    for recipe in (tmp_path / "fusion.yaml", overridden):
        found = runs.train(recipe, output_dir=tmp_path / "out", hidden_size=8, robustness=False)
        assert found.report is None
        for name, value in found.model.state_dict().items():
            torch.testing.assert_close(value, weights[name], atol=2e-6, rtol=1e-4, msg=name)  # trained twice
        assert found.results["test"] == pytest.approx(run.results["test"], rel=1e-3)
        written = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
        assert written == yaml.safe_load((tmp_path / "command" / "recipe.yaml").read_text()) | {
            "output_dir": str(tmp_path / "out")
        }
    assert overridden["hidden_size"] == 16  # what was given is left as it was


def test_adapters_are_merged_into_the_model_that_comes_back(tmp_path):
    lora = {"use_peft": True, "lora_r": 2, "robustness": False}
    found = runs.train("wma/smoke-bert", **SMALL, **lora, max_steps=2, output_dir=tmp_path)
    assert not any("lora" in name for name in found.model.state_dict())
    batch = found.collator([found.dataset["test"][row] for row in range(4)])
    with torch.no_grad():
        again = type(found.model).from_pretrained(tmp_path)(**batch).logits
        assert_close(again, found.model(**batch).logits, rtol=1e-5, atol=1e-5)


class Choice(Enum):
    EPOCH = "epoch"


def test_what_python_has_and_yaml_has_not(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load_data", None)
    keys = {"hidden_size": np.int64(8), "save_strategy": Choice.EPOCH, "modalities": ("left", "right")}
    recipe = runs.load_recipe(FUSION).override(keys | {"dataset_path": tmp_path, "id2label": {np.int64(0): "a"}})
    expected = {"hidden_size": 8, "save_strategy": "epoch", "modalities": ["left", "right"]}
    assert expected.items() <= recipe.values.items()
    assert recipe.values["dataset_path"] == str(tmp_path)
    assert yaml.safe_load(yaml.safe_dump(recipe.values)) == recipe.values


@pytest.mark.parametrize(
    ("recipe", "keys", "message"),
    [
        (None, {}, "the keyword arguments: the key 'model_type' is missing"),
        (None, {"model_type": "bert_wma"}, "the keyword arguments: the key 'dataset' is missing"),
        (FUSION, {"hiden_size": 3}, "the keyword arguments: unknown key 'hiden_size'. Did you mean 'hidden_size'?"),
        (FUSION, {"missing_ratio": 7}, "the keyword arguments: missing_ratio is 7.0; shares of the samples lie"),
        (
            FUSION,
            {"num_train_epochs": "many"},
            "the keyword arguments: num_train_epochs is 'many' (str); expected float",
        ),
        (
            FUSION,
            {"optim": print},
            "the keyword arguments: optim is <built-in function print> (builtin_function_or_met",
        ),
        (FUSION, {"dataset_options": {"a": {1: [print]}}}, "the keyword arguments: dataset_options is <built-in"),
        (FUSION, {"drop": "wma_alpha"}, "the keyword arguments: drop has 'wma_alpha', which is not set there"),
        (FUSION | {"hiden_size": 3}, {}, "the recipe's dictionary: unknown key 'hiden_size'"),
        ({1: 2}, {}, "the recipe's dictionary: 1 is no key; keys are text"),
        ({"base": "wma/smok"}, {}, "the recipe's dictionary: its base cannot be used. wma/smok"),
        ("wma/smok", {}, "wma/smok: No such file; a recipe is expected. Did you mean 'wma/smoke'"),
        (FUSION, {"early_stopping_patience": 1}, "early_stopping_patience needs evaluations"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_data_are_read(recipe, keys, message, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load_data", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        runs.train(*[] if recipe is None else [recipe], **keys)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_base_by_name_and_where_runs_go_by_default(tmp_path):
    recipe = runs.load_recipe({"base": "wma/smoke", "wma_alpha": 0.5})
    assert (recipe.values["wma_alpha"], recipe.values["wma_beta"]) == (0.5, 1.0)
    assert recipe.values["output_dir"] == "runs/digits-captions-vilt_wma"
    assert recipe.name == "digits-captions-vilt_wma"
    assert runs.load_recipe("wma/smoke").values["output_dir"] == "runs/wma-smoke"


def test_a_checkpoint_in_the_folder_is_not_overwritten(tmp_path):
    runs.train(FUSION, output_dir=tmp_path, robustness=False, save_strategy="epoch")
    with pytest.raises(RecipeError, match="already holds checkpoint-"):
        runs.train(FUSION, output_dir=tmp_path)


def test_evaluate_is_what_training_found(run):
    assert runs.evaluate(run.folder)["accuracy"] == pytest.approx(run.results["test"]["accuracy"])
    scores = runs.evaluate(str(run.folder), split="validation", per_device_eval_batch_size=7)
    assert scores["accuracy"] == pytest.approx(run.results["validation"]["accuracy"])
    assert json.loads((run.folder / "evaluation_validation.json").read_text()) == scores
    with pytest.raises(RecipeError, match="the keyword arguments: unknown key 'datset'"):
        runs.evaluate(run.folder, datset="x")
    with pytest.raises(RecipeError, match="not 'tset'"):
        runs.evaluate(run.folder, split="tset")


def test_robustness_is_a_report(run):
    report = runs.robustness(
        run.folder, split="validation", noise_amplitude=0.5, robustness_seeds=[3], missing_ratios=[1]
    )
    assert report.settings.noise_amplitudes == (0.5,)
    assert report.settings.seeds == (3,)
    assert report.to_markdown() == (run.folder / "robustness.md").read_text()


def test_a_picture_is_drawn(run, tmp_path):
    assert runs.draw_confusion(run.folder, output=tmp_path / "a.png", max_eval_samples=8) == tmp_path / "a.png"
    with pytest.raises(RecipeError, match="the keyword arguments: unknown key 'splits'"):
        runs.draw_confusion(run.folder, splits="test")


def test_a_sweep_gives_results_and_table(tmp_path, capsys):
    keys = {"output_dir": tmp_path, "robustness": False, "seed": range(2)}
    outcome = runs.sweep({**FUSION, "sweep": {"variants": {"a": {}, "b": {"hidden_size": [4, 8]}}}}, **keys)
    assert outcome.folder == tmp_path
    assert outcome.results == json.loads((tmp_path / "sweep.json").read_text())
    assert outcome.results["variants"]["b"]["selected"]["hidden_size"] in (4, 8)
    assert outcome.table == (tmp_path / "sweep.md").read_text()
    grid = runs.sweep(FUSION, output_dir=tmp_path / "grid", robustness=False, learning_rate=(1e-3, 1e-2))
    assert list(grid.results["variants"]) == ["digits-views-mmalign_fusion"]
    with pytest.raises(RecipeError, match="the keyword arguments: jobs is 0"):
        runs.sweep(FUSION, jobs=0)
    with pytest.raises(RecipeError, match="variant digits-views-mmalign_fusion: unknown key 'wma_alpha'"):
        runs.sweep(FUSION, wma_alpha=[1, 2])


def predicted(folder: Path, rows, **keys) -> list[list[float]]:
    return [list(line["probabilities"].values()) for line in runs.predict(folder, rows, **keys)]


def test_predictions_of_rows_are_those_of_evaluation(run):
    test = run.dataset["test"]
    expected = evaluate_rows(run.model, test, run.collator).logits
    expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    rows = [{name: row[name] for name in ("id", *run.collator.modalities)} for row in test]
    tensors = [row | {name: torch.tensor(row[name]) for name in run.collator.modalities} for row in rows]
    lists = [{name: value.tolist() for name, value in row.items() if name != "id"} for row in rows]
    frame = pandas.DataFrame(lists).to_dict("records")
    for given in (test, rows, tensors, lists, frame, iter(rows), Dataset.from_list(lists)):
        np.testing.assert_allclose(predicted(run.folder, given, batch_size=5), expected, atol=1e-5)
    lines = list(runs.predict(run.folder, rows))
    assert [line["id"] for line in lines] == list(test["id"])
    assert [line["prediction"] for line in lines] == [
        run.model.config.id2label[index] for index in expected.argmax(axis=1)
    ]


def test_pictures_in_rows(captions, tmp_path):
    row = captions.dataset["test"][0]
    assert isinstance(row["image"], Image.Image)
    row["image"].save(tmp_path / "photo.png")
    rows = [row, row | {"image": tmp_path / "photo.png"}, {"text": row["text"], "image": float("nan")}]
    by_hand, by_path, without = runs.predict(captions.folder, rows)
    assert by_hand["modalities"] == ["text", "image"] == by_path["modalities"]
    assert without["modalities"] == ["text"]
    assert by_hand["probabilities"] == pytest.approx(by_path["probabilities"], abs=1e-5)


def test_predictions_into_a_file(run, tmp_path, capsys):
    rows = [{name: row[name] for name in run.collator.modalities} for row in run.dataset["test"]]
    assert runs.predict(run.folder, rows, tmp_path / "out.jsonl") == len(rows)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == list(runs.predict(run.folder, rows))


def test_rows_that_cannot_be_used(run):
    name = next(iter(run.collator.modalities))
    good = {name: run.dataset["test"][0][name]}
    for bad, message in (
        ({name: "x"}, "a list in JSON"),
        ({"label": 1}, "all modalities are missing"),
        (7, "a dict is"),
    ):
        with pytest.raises(DataError, match=message) as error:
            list(runs.predict(run.folder, [good, bad]))
        assert (error.value.file, error.value.row) == ("rows", 1)
        assert len(list(runs.predict(run.folder, [good, bad, good], skip_bad_rows=True))) == 2
    with pytest.raises(DataError, match="several dicts, not one dict"):
        list(runs.predict(run.folder, good))
    with pytest.raises(RecipeError, match="batch_size is 0"):
        runs.predict(run.folder, [good], batch_size=0)
    with pytest.raises(RecipeError, match=r"holds no recipe\.yaml"):
        runs.predict(run.folder.parent, [good])  # at the call, not with the first prediction
