"""Feature data sets from the file to the saved model, by the command."""

import json

import datasets
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from hf_mmalign import MultimodalProcessor
from hf_mmalign.cli.main import main
from hf_mmalign.data.processor import train_tokenizer
from tests.tiny import BACKBONE

SMALL = {
    "model_type": "decalign",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_prototypes": 3,
    "per_device_train_batch_size": 12,
    "num_train_epochs": 1,
    "robustness": False,
    "disable_tqdm": True,
    "use_cpu": True,
    "seed": 0,
}


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def call(**values):
        out = tmp_path / "run"
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(SMALL | {"output_dir": str(out)} | values))
        assert main(["train", str(recipe), "--traceback"]) == 0
        return out

    return call


def predict(folder, features):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**MultimodalProcessor.from_pretrained(folder)(features=features)).logits


def test_mmsa_with_normalised_features(train, write_pickle, mmsa_unaligned):
    for split in mmsa_unaligned.values():
        split["audio"][:, :1] = split["audio"][:, :1] * 1000 + 500
    path = write_pickle(mmsa_unaligned)
    folder = train(dataset="mmsa", dataset_path=str(path), normalize_features=True)
    results = json.loads((folder / "results.json").read_text())
    assert results["primary_metric"] == "mae"
    statistics = MultimodalProcessor.from_pretrained(folder).feature_statistics
    assert list(statistics) == ["text", "audio", "vision"]
    split = mmsa_unaligned["train"]
    steps = np.concatenate([row[:length] for row, length in zip(split["audio"], split["audio_lengths"], strict=True)])
    np.testing.assert_allclose(statistics["audio"].mean, steps.mean(axis=0, dtype=np.float64), rtol=1e-4)
    # Prediction from the folder and raw features alone gives the error that the command reports.
    test = mmsa_unaligned["test"]
    lengths = {"text": test["text_bert"][:, 1].sum(axis=1).astype(int)}
    lengths |= {name: test[f"{name}_lengths"] for name in ("audio", "vision")}
    features = {name: [row[:n] for row, n in zip(test[name], lengths[name], strict=True)] for name in lengths}
    errors = np.abs(predict(folder, features).squeeze(-1).numpy() - test["regression_labels"])
    assert errors.mean() == pytest.approx(results["test"]["mae"], rel=1e-3)


@pytest.fixture
def text_encoder(tmp_path):
    """A checkpoint of a tiny BERT with a tokenizer."""
    folder = tmp_path / "text-encoder"
    tokenizer = train_tokenizer(["so good and so bad a film it is"], 60)
    torch.manual_seed(1)
    BertModel(BertConfig(**BACKBONE | {"vocab_size": len(tokenizer)})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_raw_text_through_a_pretrained_encoder(train, write_pickle, mmsa_unaligned, text_encoder):
    folder = train(
        dataset="mmsa",
        dataset_path=str(write_pickle(mmsa_unaligned)),
        dataset_options={"text": "raw"},
        text_model_name_or_path=str(text_encoder),
        freeze_text_encoder=True,
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    pretrained = BertModel.from_pretrained(text_encoder).state_dict()
    for name, weight in model.text_model.state_dict().items():
        torch.testing.assert_close(weight, pretrained[name])
    processor = MultimodalProcessor.from_pretrained(folder)
    assert processor.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(text_encoder).get_vocab()
    assert torch.isfinite(model.eval()(**processor(text=["so good"])).logits).all()


def test_raw_text_through_an_encoder_from_scratch(train, write_pickle, mmsa_unaligned):
    folder = train(
        dataset="mmsa",
        dataset_path=str(write_pickle(mmsa_unaligned)),
        dataset_options={"text": "raw"},
        text_config={name: value for name, value in BACKBONE.items() if name != "vocab_size"},
        backbone_learning_rate=1e-3,
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.text_config.vocab_size == len(MultimodalProcessor.from_pretrained(folder).tokenizer)


def test_a_text_encoder_for_features_is_refused(tmp_path, write_pickle, mmsa_aligned, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**SMALL, "dataset": "mmsa", "dataset_path": str(write_pickle(mmsa_aligned))}))
    arguments = ["--text_model_name_or_path", "somewhere", "--output_dir", str(tmp_path / "out")]
    assert main(["train", str(recipe), *arguments]) == 2
    assert "text_model_name_or_path is for raw text" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mosi", "mosi-official", "mosei", "sims"])
def test_the_recipes_of_the_paper(
    name, write_pickle, mmsa_aligned, mmsa_unaligned, text_encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = write_pickle(mmsa_unaligned if name == "sims" else mmsa_aligned)
    out = tmp_path / "run"
    small = {"text_model_name_or_path": text_encoder, "num_train_epochs": 1, "use_cpu": True, "robustness": False}
    arguments = {"dataset_path": path, "output_dir": out} | small
    command = [part for key, value in arguments.items() for part in (f"--{key}", str(value))]
    assert main(["train", f"recipes/decalign/{name}.yaml", *command, "--traceback"]) == 0
    results = json.loads((out / "results.json").read_text())
    primary = {"mosei": "acc2_nonzero", "sims": "sims_f1"}.get(name, "mae")
    assert results["primary_metric"] == primary
    assert all(np.isfinite(value) for value in results["test"].values())


def test_the_recipe_of_iemocap(write_pickle, iemocap, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    small = {"dataset_path": write_pickle(iemocap), "output_dir": tmp_path / "run", "num_train_epochs": 1}
    command = [part for key, value in small.items() for part in (f"--{key}", str(value))]
    assert main(["train", "recipes/decalign/iemocap.yaml", *command, "--robustness", "false", "--traceback"]) == 0
    assert {"wacc", "waf1"} <= set(json.loads((tmp_path / "run" / "results.json").read_text())["test"])


def test_iemocap(train, write_pickle, iemocap):
    folder = train(dataset="iemocap", dataset_path=str(write_pickle(iemocap)))
    assert MultimodalProcessor.from_pretrained(folder).feature_statistics == {}
    assert json.loads((folder / "config.json").read_text())["id2label"]["5"] == "frustrated"


def test_ravdess(train, shared_data):
    options = {"dataset_options": {"fold": 3}, "max_train_samples": 64, "max_eval_samples": 16}
    folder = train(dataset="ravdess", dataset_path=str(shared_data / "ravdess"), normalize_features=True, **options)
    assert predict(folder, {"action_units": [np.zeros((1, 35))], "mfcc": [np.zeros((0, 259))]}).shape == (1, 8)


def test_digits_av(train, shared_data, tmp_path):
    # A folder of links to a tenth of the recordings.
    folder = tmp_path / "digits-av"
    (folder / "recordings").mkdir(parents=True)
    for path in (shared_data / "digits-av").glob("*.gz"):
        (folder / path.name).symlink_to(path)
    for path in (shared_data / "digits-av" / "recordings").glob("*_[01].wav"):
        (folder / "recordings" / path.name).symlink_to(path)
    run = train(dataset="digits-av", dataset_path=str(folder), normalize_features=True, dataset_options={"n_mels": 20})
    assert json.loads((run / "config.json").read_text())["feature_sizes"] == {"audio": 20, "picture": 28}


def test_normalisation_without_feature_sequences_is_refused(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model_type: bert_wma\ndataset: digits-captions\nnormalize_features: true\nmodalities: [text]\n")
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "out")]) == 2
    assert "normalize_features is for feature sequences" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mmsa", "iemocap"])
def test_inspect(name, write_pickle, mmsa_aligned, iemocap, tmp_path, capsys):
    path = write_pickle(mmsa_aligned if name == "mmsa" else iemocap)
    assert main(["data", "inspect", name, str(path), "--cache-dir", str(tmp_path / "cache"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["modalities"] == {"text": 8, "audio": 5, "vision": 4}
    assert report["splits"]["train"]["rows"] == 12
