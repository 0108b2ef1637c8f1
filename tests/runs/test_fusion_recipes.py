"""The recipes of Auto-Fusion's paper on small data in the true formats, every variant trained by the command."""

import json
import pickle

import numpy as np
import torch
from transformers import TimmWrapperConfig, TimmWrapperModel

from hf_mmalign.cli.main import main
from hf_mmalign.runs.recipe import load_recipe
from tests.data.readers.test_how2 import write_how2
from tests.data.readers.test_multi30k import write_multi30k

SMALL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64}
SMALL |= {
    f"{side}_{key}": value
    for side in ("encoder", "decoder")
    for key, value in (("attention_heads", 2), ("ffn_dim", 16))
}
PICTURES = {"image": {"architecture": "test_resnet"}}
TIMM = {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
QUICK = ["--num_train_epochs", "1", "--disable_tqdm", "true", "--hidden_size", "8", "--seed", "0"]
QUICK_TRANSLATION = [*QUICK, "--text_config", json.dumps(SMALL), "--generation_max_length", "8"]


def sweep(name, data, folder, *told):
    assert main(["sweep", name, "--dataset_path", str(data), "--output_dir", str(folder), *told]) == 0
    return {run.parent.name: run for run in folder.glob("*/seed=0")}


def scores(run):
    return set(json.loads((run / "results.json").read_text())["test"])


def test_how2_from_text_speech_and_video(tmp_path):
    data = write_how2(tmp_path / "how2-300h-v1")
    runs = sweep("translation/how2-comparison", data, tmp_path / "runs", *QUICK_TRANSLATION)
    assert set(runs) >= {"text", "concat", "attention", "auto-speech", "auto", "gan-speech", "gan"}
    assert scores(runs["auto"]) >= {"bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "loss_reconstruction"}
    config = json.loads((runs["auto"] / "config.json").read_text())
    assert (config["modalities"], config["latent_size"]) == (["text", "video", "speech"], 100)
    assert json.loads((runs["auto-speech"] / "config.json").read_text())["modalities"] == ["text", "speech"]


def test_multi30k_with_a_picture_encoder_that_is_not_trained(tmp_path):
    data = write_multi30k(tmp_path / "multi30k", ("en", "de", "fr"))
    told = [*QUICK_TRANSLATION, "--encoders", json.dumps(PICTURES)]
    french = sweep("translation/multi30k-en-fr-comparison", data, tmp_path / "fr", *told)
    assert set(french) >= {"text", "concat", "attention", "auto", "gan"}
    assert scores(french["auto"]) >= {"bleu", "bleu_4", "meteor", "loss_reconstruction"}
    assert json.loads((french["text"] / "config.json").read_text())["modalities"] == ["text"]
    assert json.loads((french["auto"] / "config.json").read_text())["frozen"] == ["image"]
    where = ["--dataset_path", str(data), "--output_dir", str(tmp_path / "de")]
    assert main(["train", "translation/multi30k-en-de", *where, *told]) == 0
    for path in ("fr", "de"):
        values = load_recipe(f"translation/multi30k-en-{path}").values
        assert (values["encoders"], values["dataset_options"]["target"]) == ({"image": "timm/vgg16.tv_in1k"}, path)
        assert "text" in load_recipe(f"translation/multi30k-en-{path}-comparison").sweep["variants"]


def test_the_study_on_photos_from_extraction_to_the_word_drop_curve(tmp_path):
    data = write_multi30k(tmp_path / "multi30k")
    torch.manual_seed(0)
    encoder = TimmWrapperModel(TimmWrapperConfig(architecture="test_resnet", num_labels=0, pretrained_cfg=TIMM))
    encoder.save_pretrained(tmp_path / "encoder")
    features = tmp_path / "features"
    options = ["--option", "target=de", "--option", "pictured=true", "--image", str(tmp_path / "encoder")]
    assert main(["data", "extract", "multi30k", str(data), *options, "--keep", "text", "--output", str(features)]) == 0
    card = (features / "README.md").read_text()
    assert "  target: target\nmodel_type: mmalign_fusion_seq2seq" in card, "how to train on it"
    runs = sweep("translation/multi30k-pictures-study", features, tmp_path / "runs", *QUICK_TRANSLATION)
    report = (tmp_path / "runs" / "sweep.md").read_text(encoding="utf-8")
    assert "BLEU-4 ↑" in report
    assert "own head" not in report  # bleu_4 is no score of a modality
    assert set(runs) >= {f"{name}{half}" for name in ("text", "concat", "auto", "gan") for half in ("", "-half")}
    assert scores(runs["concat-half"]) >= {"bleu", "meteor"}
    picture = tmp_path / "word-drop.png"
    drawn = [str(runs[name]) for name in ("text", "concat")]
    assert main(["plot", "word-drop", *drawn, "--output", str(picture), "--probabilities", "0", "0.5"]) == 0
    told = json.loads(picture.with_suffix(".json").read_text())
    assert list(told["models"]) == ["text", "concat"]
    assert told["num_samples"] == 2, "the test sentences with a picture"


def test_iemocap_from_text_and_audio(tmp_path):
    rng, content = np.random.RandomState(0), {}
    for split, rows in (("train", 12), ("valid", 6), ("test", 7)):
        content[split] = {"text": rng.randn(rows, 4, 6), "audio": rng.randn(rows, 5, 3)}
        content[split]["raw_text"] = [f"so happy today {row}" for row in range(rows)]
        content[split] |= {"id": list(map(str, range(rows))), "classification_labels": np.arange(rows) % 6}
    data = tmp_path / "iemocap_data.pkl"
    data.write_bytes(pickle.dumps(content))
    runs = sweep("fusion/iemocap-comparison", data, tmp_path / "runs", *QUICK)
    assert set(runs) == {"text", "concat", "auto", "gan"}
    assert {"precision_macro", "recall_macro", "f1_macro", "accuracy", "loss_reconstruction"} <= scores(runs["auto"])
    config = json.loads((runs["auto"] / "config.json").read_text())
    assert (config["modalities"], config["latent_size"], config["encoder"]) == (["text", "audio"], 50, "lstm")
    assert config["encoders"]["text"]["model_type"] == "mmalign_lstm"
