"""`hf-mmalign predict`: from a file to predictions, the same ones as evaluation makes."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_mmalign.cli.main import main
from hf_mmalign.evaluation.inference import predict as evaluate_rows
from hf_mmalign.runs.build import build_collator
from hf_mmalign.runs.evaluation import load_run

COUNT = 40
RECIPE = """
dataset: table
dataset_path: {path}
dataset_options:
  columns: {{text: tweet, face: face, mfcc: voice}}
  label: mood
  id: name
  splits: {{validation: 0.2, test: 0.2}}
model_type: bert_wma
hidden_size: 16
num_hidden_layers: 1
num_attention_heads: 2
intermediate_size: 16
tokenizer_vocab_size: 60
num_train_epochs: 1
per_device_train_batch_size: 8
robustness: false
output_dir: {output}
"""


def write_rows(path: Path, count: int = COUNT) -> None:
    """A CSV with a text and two feature columns, of which one is a sequence of varying length."""
    rng = np.random.default_rng(0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "tweet", "face", "voice", "mood"])
        for row in range(count):
            voice = rng.normal(size=(1 + row % 4, 2)).round(3).tolist()
            text = "" if row % 7 == 3 else f"word{row % 5} and word{row % 3}"
            face = rng.normal(size=3).round(3).tolist()
            mood = ("bad", "good")[row % 2]
            writer.writerow([f"r{row}", text, json.dumps(face), json.dumps(voice), mood])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    write_rows(folder / "rows.csv")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(path=folder / "rows.csv", output=folder / "run"), encoding="utf-8")
    assert main(["train", str(recipe)]) == 0
    return folder / "run"


def predicted(arguments: list[str], output: Path) -> list[dict]:
    assert main(["predict", *arguments, "--output", str(output)]) == 0
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def test_predictions_are_those_of_evaluation_in_the_order_of_the_rows(run, tmp_path):
    model, processor, _, dataset = load_run(run)
    test = dataset["test"]
    with open(run.parent / "rows.csv", newline="", encoding="utf-8") as file:
        by_name = {row["name"]: row for row in csv.DictReader(file)}
    rows = [by_name[name] for name in test["id"]]
    table = tmp_path / "test.jsonl"
    unlabelled = [{key: value for key, value in row.items() if key != "mood"} for row in rows]
    table.write_text("".join(json.dumps(row) + "\n" for row in unlabelled), encoding="utf-8")
    lines = predicted([str(run), str(table), "--batch_size", "3"], tmp_path / "out.jsonl")
    expected = evaluate_rows(model, test, build_collator(processor, model.config)).logits
    probabilities = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    assert [line["id"] for line in lines] == list(test["id"])
    for line, row, source in zip(lines, probabilities, rows, strict=True):
        np.testing.assert_allclose([line["probabilities"]["bad"], line["probabilities"]["good"]], row, atol=1e-5)
        assert line["prediction"] == ("bad", "good")[int(row.argmax())]
        assert line["modalities"] == (["text"] if source["tweet"] else []) + ["face", "mfcc"]


def test_standard_input_and_output(run, monkeypatch, capsys):
    lines = [{"face": [1, 2, 3]}, {"tweet": "word1"}, {"voice": [[1, 2], [3, 4]], "tweet": None}]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n".join(map(json.dumps, lines))))
    assert main(["predict", str(run), "-"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["modalities"] for line in found] == [["face"], ["text"], ["mfcc"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"face": [1, 2]}', "features of width 3"),
        ('{"face": [1, 2, 3}', "no row in JSON"),
        ('{"mood": "good"}', "all modalities are missing"),
        ('{"face": [1, 2, NaN]}', "NaN or Inf"),
    ],
)
def test_a_bad_row_is_named_or_passed_over(run, tmp_path, monkeypatch, capsys, line, message):
    content = f'{{"tweet": "word1"}}\n{line}\n{{"tweet": "word2"}}\n'
    monkeypatch.setattr(sys, "stdin", io.StringIO(content))
    output = tmp_path / "out.jsonl"
    assert main(["predict", str(run), "-", "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "row 1" in error
    assert not list(tmp_path.iterdir())  # nothing half-written
    monkeypatch.setattr(sys, "stdin", io.StringIO(content))
    assert len(predicted([str(run), "-", "--skip_bad_rows"], output)) == 2


def test_a_table_without_any_modality(run, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    assert main(["predict", str(run), str(tmp_path / "rows.csv")]) == 2
    assert "none of the columns ['tweet', 'face', 'voice'] is there" in capsys.readouterr().err


def test_a_sweep_over_folds_of_anyone_s_table(run, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    text = RECIPE.format(path=run.parent / "rows.csv", output=tmp_path / "sweep")
    recipe.write_text(
        text.replace("  splits: {validation: 0.2, test: 0.2}\n", "  splits: {validation: 0.1, test: 0.1}\n")
    )
    assert main(["sweep", str(recipe), "--folds", "3"]) == 0
    found = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["variants"]["recipe"]["folds"]
    assert list(found) == ["0", "1", "2"]
