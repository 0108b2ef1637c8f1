"""`hf-mmalign data inspect`, by its command line."""

import argparse
import json
import subprocess
import sys

import numpy as np
import pytest

from hf_mmalign.cli import data as command


@pytest.fixture
def inspect(tmp_path, capsys):
    def call(*arguments):
        parser = argparse.ArgumentParser()
        command.add_parser(parser.add_subparsers())
        args = parser.parse_args(["data", "inspect", *map(str, arguments), "--cache-dir", str(tmp_path / "cache")])
        assert args.run(args) == 0
        return capsys.readouterr().out

    return call


def test_features_lengths_and_missing_values(inspect, write_pickle, mosei):
    mosei["train"]["audio"][:3] = 0
    path = write_pickle(mosei)
    report = json.loads(inspect("multibench", path, "--json"))
    assert report["problem_type"] == "regression"
    assert report["modalities"] == {"vision": 5, "audio": 4, "text": 7}
    train = report["splits"]["train"]
    assert train["rows"] == 10
    assert (train["modalities"]["audio"]["missing"], train["modalities"]["text"]["missing"]) == (3, 0)
    lengths = mosei["train"]["text"].any(axis=2).sum(axis=1)
    length = train["modalities"]["text"]["length"]
    assert (length["min"], length["mean"], length["max"]) == (lengths.min(), lengths.mean(), lengths.max())
    values = mosei["train"]["text"][mosei["train"]["text"].any(axis=2)]
    assert train["modalities"]["text"]["value"]["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert train["label"]["value"]["max"] == pytest.approx(mosei["train"]["labels"].max())
    text = inspect("multibench", path)
    assert "train: 10 rows" in text
    assert "3 missing" in text
    assert "audio (features of width 4)" in text


def test_pictures_texts_and_unlabelled_rows(inspect, hateful_memes):
    report = json.loads(inspect("image-text", hateful_memes, "--json"))["splits"]
    image = report["train"]["modalities"]["image"]
    assert image["width"] == {"min": 20, "mean": 21.5, "max": 23}
    assert image["mode"] == {"RGB": 1, "RGBA": 1, "L": 1, "P": 1}
    assert report["train"]["modalities"]["text"] == {
        "kind": "text",
        "missing": 0,
        "length": {"min": 3, "mean": 3, "max": 3},
        "distinct": 4,
    }
    assert report["train"]["label"] == {"missing": 0, "counts": {"0": 2, "1": 2}}
    assert report["test"]["label"] == {"missing": 2, "counts": {"0": 0, "1": 0}}
    assert "label       2 classes; 2 missing" in inspect("image-text", hateful_memes)


def test_several_labels_a_row(inspect, mmimdb_folder):
    report = json.loads(inspect("mmimdb", mmimdb_folder, "--option", "num_genres=3", "--json"))
    assert report["splits"]["train"]["label"]["counts"] == {"Drama": 4, "Comedy": 3, "War": 2}
    assert report["splits"]["test"]["label"]["counts"] == {"Drama": 1, "Comedy": 1, "War": 1}


def test_options_are_yaml(inspect, write_pickle, mosei):
    mosei["train"]["text"][0] = 0
    mosei["train"]["audio"][0, -1, 0] = -np.inf
    options = ["--option", "nonfinite=replace", "--option", "drop_missing=[text]"]
    report = json.loads(inspect("multibench", write_pickle(mosei), *options, "--json"))
    assert report["splits"]["train"]["rows"] == 9


def test_another_label_column(inspect):
    report = json.loads(inspect("digits-views", "--label-column", "target", "--json"))
    assert report["problem_type"] == "regression"
    assert report["splits"]["train"]["label"]["value"]["mean"] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("option", ["nonfinite", "=1", "seed=[1"])
def test_a_faulty_option_is_refused(inspect, option):
    with pytest.raises(ValueError, match="--option"):
        inspect("digits-views", "--option", option)


def test_the_parser_needs_no_heavy_import():
    code = (
        "import sys, hf_mmalign.cli.data; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
