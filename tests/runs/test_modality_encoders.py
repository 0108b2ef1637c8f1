"""The key `encoders`: pretrained and new encoders of text, pictures and sound, from a recipe to a saved folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    TimmWrapperConfig,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from hf_mmalign import FusionForSequenceClassification, MultimodalProcessor
from hf_mmalign.cli.main import main
from hf_mmalign.data.processor import train_tokenizer
from hf_mmalign.models.fusion.encoders import build_encoder
from tests.encoders import WAVES, WHISPER
from tests.tiny import BACKBONE

TEXTS = ["a loud dog", "a quiet cat", "the dog barks", "the cat sleeps"]
RECIPE = """
dataset: table
dataset_path: {data}
dataset_options:
  columns: {{text: caption, image: photo, audio: sound}}
  audio: raw
  label: animal
  splits: {{validation: 0.25, test: 0.25, seed: 0}}
model_type: mmalign_fusion
encoders:
  text: {text}
  image: {image}
  audio: {audio}
image_processor: {{size: {{height: 32, width: 32}}, do_center_crop: false}}
hidden_size: 8
unimodal_heads: true
num_train_epochs: 1
per_device_train_batch_size: 4
learning_rate: 0.05
robustness_seeds: [0]
missing_ratios: [1.0]
save_strategy: "no"
"""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> dict[str, Path]:
    """A folder for each encoder, with what prepares its input, as the Hub has them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pretrained")
    train_tokenizer(TEXTS, 60).save_pretrained(folder / "text")
    BertModel(BertConfig(**BACKBONE, max_position_embeddings=20)).save_pretrained(folder / "text")
    AutoModel.from_config(TimmWrapperConfig(architecture="test_resnet")).save_pretrained(folder / "image")
    AutoModel.from_config(WAVES).save_pretrained(folder / "audio")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "audio")
    return {name: folder / name for name in ("text", "image", "audio")}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Sixteen animals; one lacks its picture and one its sound."""
    folder, rng = tmp_path_factory.mktemp("animals"), np.random.default_rng(0)
    rows = ["caption,photo,sound,animal"]
    for index in range(16):
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        soundfile.write(folder / f"{index}.wav", rng.normal(size=400 + 20 * index) * 0.1, 8000)
        photo, sound = f"{index}.png" * (index != 3), f"{index}.wav" * (index != 5)
        rows.append(f"{TEXTS[index % 4]},{photo},{sound},{'cat' if index % 2 else 'dog'}")
    (folder / "animals.csv").write_text("\n".join(rows) + "\n")
    return folder / "animals.csv"


def run(folder: Path, data: Path, *arguments: str, **encoders) -> FusionForSequenceClassification:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(data=data, **{name: json.dumps(v) for name, v in encoders.items()}))
    assert main(["train", str(recipe), "--output_dir", str(folder / "run"), *arguments]) == 0
    return AutoModelForSequenceClassification.from_pretrained(folder / "run").eval()


def test_three_pretrained_encoders_and_one_folder(pretrained, table, tmp_path, capsys):
    """Frozen ones stay what they were; the folder predicts without theirs, and evaluates."""
    sources = {name: str(folder) for name, folder in pretrained.items()}
    rates = ("--backbone_learning_rate", "0.02", "--modality_dropout", "0.2", "--logging_steps", "1")
    frozen = ("--frozen", "[image, audio]", "--frozen_stages", "{text: 1}", "--gradient_checkpointing", "true")
    model = run(tmp_path, table, *rates, *frozen, **sources)
    logs = json.loads((tmp_path / "run/trainer_state.json").read_text())["log_history"]
    assert "backbone_learning_rate" in logs[0]
    assert model.config.modality_kinds == {"text": "text", "image": "image", "audio": "audio"}
    for name in ("image", "audio"):
        stock = AutoModel.from_pretrained(pretrained[name])
        assert_close(model.encoders[name].state_dict(), stock.state_dict(), atol=0, rtol=0)
    stock, found = BertModel.from_pretrained(pretrained["text"]).state_dict(), model.encoders["text"].state_dict()
    changed = {key for key in found if not torch.equal(found[key], stock[key])}
    assert changed
    assert not any(key.startswith("embeddings") for key in changed)
    assert {"unimodal_text", "unimodal_image", "unimodal_audio"} <= {
        key.removeprefix("loss_") for key in json.loads((tmp_path / "run/results.json").read_text())["test"]
    }
    classify = pipeline("multimodal-classification", str(tmp_path / "run"))
    sound = table.parent / "0.wav"
    samples, rate = soundfile.read(sound, dtype="float32")
    forms = [str(sound), sound.read_bytes(), {"array": samples, "sampling_rate": rate}]
    picture = Image.open(table.parent / "0.png")
    scores = classify([{"text": TEXTS[0], "image": picture, "audio": form} for form in forms], top_k=None)
    for other in scores[1:]:
        assert [entry["label"] for entry in other] == [entry["label"] for entry in scores[0]]
        assert_close([entry["score"] for entry in other], [entry["score"] for entry in scores[0]], atol=1e-4, rtol=1e-4)
    assert classify({"audio": str(sound)})[0]["label"] in ("cat", "dog")
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert main(["plot", "modality-gap", str(tmp_path / "run")]) == 2
    assert "no common space" in capsys.readouterr().err
    rows = tmp_path / "new.csv"
    rows.write_text(f"caption,photo,sound\na dog,{table.parent}/1.png,{sound}\n,,{sound}\n")
    assert main(["predict", str(tmp_path / "run"), str(rows), "--output", str(tmp_path / "out.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["modalities"] for line in lines] == [["text", "image", "audio"], ["audio"]]


def test_new_encoders_of_every_kind(table, tmp_path):
    """From configs: vocabulary, picture size and mel bands follow from what is there."""
    text = BACKBONE | {"model_type": "bert"}
    audio = WHISPER.to_dict() | {"max_source_positions": 50}
    model = run(tmp_path, table, "--robustness", "false", text=text, image={"model_type": "resnet", "embedding_size": 8,
                "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}, audio=audio)  # fmt: skip
    vocabulary = len(json.loads((tmp_path / "run/tokenizer.json").read_text())["model"]["vocab"])
    assert model.config.encoders["text"].vocab_size == vocabulary
    assert model.config.encoders["audio"].num_mel_bins == 6
    assert main(["robustness", str(tmp_path / "run"), "--robustness_seeds", "[0]"]) == 0


def test_lora_on_pretrained_encoders(pretrained, table, tmp_path):
    sources = {name: str(pretrained[name]) for name in ("text", "image")}
    model = run(
        tmp_path, table, "--use_peft", "--lora_r", "2", "--robustness", "false", audio=WAVES.to_dict(), **sources
    )
    stock, found = BertModel.from_pretrained(pretrained["text"]).state_dict(), model.encoders["text"].state_dict()
    changed = {key.rsplit(".", 2)[-2] for key in found if not torch.equal(found[key], stock[key])}
    assert changed == {"query", "value"}
    stock, found = AutoModel.from_pretrained(pretrained["image"]).state_dict(), model.encoders["image"].state_dict()
    assert {found[key].dim() for key in found if not torch.equal(found[key], stock[key])} == {4}
    torch.manual_seed(1)
    fresh = build_encoder(WAVES).state_dict()
    assert fresh.keys() == model.encoders["audio"].state_dict().keys()


def test_a_language_model_without_padding(table, tmp_path):
    """Its tokenizer has no token for it, and LoRA finds queries and values in one layer."""
    source = tmp_path / "gpt2"
    tokenizer = train_tokenizer(TEXTS, 60)
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="[SEP]")
    plain.save_pretrained(source)
    model = GPT2Model(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=20))
    model.save_pretrained(source)
    recipe = tmp_path / "recipe.yaml"
    text = RECIPE.format(data=table, text=json.dumps(str(source)), image="{}", audio="{}")
    recipe.write_text(text.replace("  image: {}\n  audio: {}\n", "modalities: [text]\n"))
    arguments = ["--output_dir", str(tmp_path / "run"), "--use_peft", "--lora_r", "2", "--robustness", "false"]
    assert main(["train", str(recipe), *arguments]) == 0
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").encoders["text"].state_dict()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(found[key], value)}
    assert changed == {"h.0.attn.c_attn.weight"}


def test_feature_sequences_as_pictures_and_in_order(tmp_path):
    """Log-mel frames, say: a convolutional network sees them as one picture, an LSTM one after the other."""
    encoders = "{bottom: {architecture: test_resnet, in_chans: 1}}"
    kinds = ["--encoders", encoders, "--encoder", "{top: lstm, zones: transformer}", "--picture_steps", "{bottom: 16}"]
    small = ["--max_train_samples", "32", "--max_eval_samples", "16", "--robustness", "false"]
    assert main(["train", "fusion/smoke", "--output_dir", str(tmp_path), *kinds, *small]) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert [type(model.encoders[name]).__name__ for name in ("bottom", "top", "zones")] == [
        "TimmWrapperModel", "LSTMEncoder", "SequenceTransformer"
    ]  # fmt: skip


def test_texts_can_be_cut_shorter_than_the_encoder_takes(pretrained, table, tmp_path, caplog, capsys):
    sources = {name: str(folder) for name, folder in pretrained.items()}
    quick = ("--robustness", "false", "--max_text_length")
    model = run(tmp_path, table, *quick, "4", **sources)
    assert "4 tokens that the model takes, and are cut" in caplog.text
    assert "A larger max_text_length takes more of them" in caplog.text
    processor = MultimodalProcessor.from_pretrained(tmp_path / "run")
    assert processor(text=TEXTS, truncation=True)["input_ids"].shape == (4, 4)
    assert model.config.max_text_length == 4
    arguments = ["--output_dir", str(tmp_path / "run"), *quick]
    assert main(["train", str(tmp_path / "recipe.yaml"), *arguments, "21"]) == 2
    assert "max_text_length is 21; a text has at least 2 tokens, and at most the 20" in capsys.readouterr().err


def test_errors_name_the_encoder(table, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    for encoder, message in (
        ({"model_type": "brt"}, "encoders: text is {'model_type': 'brt'"),
        ("no/such-model", "encoders: text is 'no/such-model', which cannot be used"),
    ):
        recipe.write_text(RECIPE.format(data=table, text=json.dumps(encoder), image="{architecture: test_resnet}",
                                        audio=json.dumps(WAVES.to_dict())))  # fmt: skip
        assert main(["train", str(recipe), "--output_dir", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    arguments = ["--dataset_options", "{}", "--text_model_name_or_path", "a/name", "--robustness", "false"]
    assert main(["train", "fusion/smoke-encoders", "--output_dir", str(tmp_path / "run"), *arguments]) == 2
    assert "say `encoders: {text: a/name}`" in capsys.readouterr().err
