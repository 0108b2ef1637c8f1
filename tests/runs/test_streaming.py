"""`streaming: true` from the command line: to a trained folder, resumed, with checks that are made once."""

import json

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from hf_mmalign import (
    FusionConfig,
    FusionForSequenceClassification,
    MultimodalCollator,
    MultimodalProcessor,
    MultimodalTrainer,
    MultimodalTrainingArguments,
    evaluate_robustness,
    load_multimodal_dataset,
)
from hf_mmalign.cli.main import main
from hf_mmalign.data import loading, validation
from hf_mmalign.runs import build, vocabulary
from tests.data.streamed_files import write_shards
from tests.data.test_streams import write_webdataset

pytestmark = pytest.mark.skipif(not loading.TABLES_STREAM, reason="this version of datasets is refused")

RECIPE = {
    "dataset": "table",
    "streaming": True,
    "shuffle_buffer_size": 8,
    "dataset_options": {"columns": {"text": "tweet", "face": "face", "mfcc": "mfcc"}, "label": "mood"},
    "model_type": "bert_wma",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "per_device_train_batch_size": 4,
    "max_steps": 12,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "save_strategy": "steps",
    "save_steps": 4,
    "save_total_limit": 10,
    "disable_tqdm": True,
    "robustness": False,
}


ONE_TOWER = ("num_hidden_layers", "num_attention_heads", "intermediate_size")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def run(tmp_path, folder, *arguments, name="out", **values) -> int:
    recipe = tmp_path / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"dataset_path": str(folder)} | values), encoding="utf-8")
    return main(["train", str(recipe), "--output_dir", str(tmp_path / name), *arguments])


def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_from_shards_to_a_folder_that_is_evaluated_and_resumed(tmp_path, capsys):
    folder = write_shards(tmp_path / "data", "jsonl")
    normalised = ["--normalize_features", "true", "--robustness", "true", "--robustness_seeds", "0"]
    assert run(tmp_path, folder, *normalised) == 0
    told = results(tmp_path / "out")
    assert told["train"]["steps"] == 12
    assert "epochs" not in told["train"]
    assert (tmp_path / "out/robustness.md").exists()
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [4, 8, 12]
    for split in ("test", "train"):  # of the stream the rows once
        assert main(["evaluate", str(tmp_path / "out"), "--split", split]) == 0
    capsys.readouterr()
    for command in (["robustness"], ["plot", "confusion"]):
        assert main([*command, str(tmp_path / "out"), "--split", "train"]) == 2
        assert (
            "'train' is a stream, and this takes rows at hand, as those of ['validation', 'test']"
            in capsys.readouterr().err
        )
    # The run goes on in the second pass of five batches, and equals the one that was not interrupted.
    (tmp_path / "again").mkdir()
    (tmp_path / "out/checkpoint-8").rename(tmp_path / "again/checkpoint-8")
    assert run(tmp_path, folder, *normalised, "--resume_from_checkpoint", "true", name="again") == 0
    expected = load_file(tmp_path / "out/model.safetensors")
    for key, value in load_file(tmp_path / "again/model.safetensors").items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=0, msg=key)


def test_webdataset_shards_with_workers(tmp_path):
    columns = {"columns": {"image": "png", "text": "txt", "vector": "npy"}, "label": "cls"}
    values = {"model_type": "vilt_wma", "image_size": 32, "patch_size": 16, "dataset_options": columns, "max_steps": 4}
    workers = ["--dataloader_num_workers", "2"]
    assert run(tmp_path, write_webdataset(tmp_path / "data"), *workers, **values) == 0
    assert results(tmp_path / "out")["validation"]["accuracy"] >= 0


def test_a_stream_of_texts_to_translate(tmp_path, capsys):
    """Its words go missing by `id`, a run that went on equals a whole one, and a missing translation is found."""
    sides = {f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in ("attention_heads", "layers")}
    values = {"model_type": "mmalign_fusion_seq2seq", "text_config": {"d_model": 16, **sides}}
    values |= {"dataset_options": {"columns": {"text": "tweet", "face": "face"}, "target": "name", "id": "name"}}
    values |= {"train_noise": {"unknown_words": 0.3}, "fusion": "auto", "generation_max_length": 10}
    values = {key: value for key, value in (RECIPE | values).items() if key not in ("hidden_size", *ONE_TOWER)}
    folder = write_shards(tmp_path / "data", "jsonl", changed={3: {"tweet": "something said in between"}})

    def train(name: str, *arguments: str) -> int:
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(values | {"dataset_path": str(folder)}), encoding="utf-8")
        return main(["train", str(recipe), "--output_dir", str(tmp_path / name), *arguments])

    assert train("out") == 0
    assert results(tmp_path / "out")["test"]["bleu"] >= 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out"), "--split", "train"]) == 0
    assert "bleu: " in capsys.readouterr().out
    assert main(["plot", "word-drop", str(tmp_path / "out"), "--split", "train"]) == 2
    assert "'train' is a stream" in capsys.readouterr().err
    (tmp_path / "again").mkdir()
    (tmp_path / "out/checkpoint-8").rename(tmp_path / "again/checkpoint-8")
    assert train("again", "--resume_from_checkpoint", "true") == 0
    expected = load_file(tmp_path / "out/model.safetensors")
    for key, value in load_file(tmp_path / "again/model.safetensors").items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=0, msg=key)
    write_shards(folder, "jsonl", changed={18: {"name": None}})
    del values["train_noise"], values["dataset_options"]["id"]
    assert train("bad") == 2
    assert "row 18, field 'train.name': a training row needs a translation" in capsys.readouterr().err


def test_the_first_rows_only(tmp_path):
    folder = write_shards(tmp_path / "data", "jsonl")
    assert run(tmp_path, folder, "--max_train_samples", "6", "--max_steps", "4") == 0
    words = json.loads((tmp_path / "out/tokenizer.json").read_text())["model"]["vocab"]
    assert "5" in words
    assert "6" not in words  # of the seventh text


def test_from_python_as_from_a_recipe(tmp_path):
    folder = write_shards(tmp_path / "data", "jsonl")
    columns = {"face": "face", "mfcc": "mfcc"}
    data = load_multimodal_dataset("table", folder, streaming=True, columns=columns, label="mood")
    processor = MultimodalProcessor().fit_features(data["train"])
    collator = MultimodalCollator.from_dataset(processor, data)
    model = FusionForSequenceClassification(FusionConfig(feature_sizes=collator.modalities, num_labels=2))
    trainer = MultimodalTrainer(
        model,
        MultimodalTrainingArguments(
            str(tmp_path / "out"), max_steps=6, save_strategy="no", disable_tqdm=True, report_to="none"
        ),
        train_dataset=data["train"].shuffle(seed=0, buffer_size=8),
        eval_dataset=data["validation"],
        data_collator=collator,
    )
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.evaluate()["eval_loss"] > 0
    with pytest.raises(ValueError, match="is a stream; it is read many times"):
        evaluate_robustness(model, data["train"], data_collator=collator)
    trainer.save_model(str(tmp_path / "out"))
    assert main(["robustness", str(tmp_path / "out"), *_data_of(folder, columns), "--noise_amplitude", "1"]) == 0


def _data_of(folder, columns) -> list[str]:
    options = json.dumps({"columns": columns, "label": "mood"})
    return ["--dataset", "table", "--dataset_path", str(folder), "--dataset_options", options]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_steps": -1, "num_train_epochs": 3}, "num_train_epochs does not say how long to train; max_steps does"),
        ({"eval_strategy": "epoch"}, "eval_strategy is epoch"),
        ({"save_strategy": "epoch"}, "save_strategy is epoch"),
        ({"streaming": False}, "shuffle_buffer_size is for streaming: true"),
        ({"shuffle_buffer_size": 0}, "shuffle_buffer_size is 0; it is at least 1"),
        ({"dataset": "image-text"}, "streaming is for dataset: table, not image-text"),
        ({"dataset_options": {"streaming": True}}, "streaming, which is a key of its own"),
        ({"dataset_options": {"label": "mood", "folds": 5, "fold": 0}}, "folds draw from all rows"),
        ({"dataset_options": {"label": "mood", "splits": {"validation": 0.2}}}, "this one is streamed; name files"),
    ],
)
def test_what_a_stream_cannot_be_is_told_before_training(tmp_path, capsys, values, message):
    assert run(tmp_path, write_shards(tmp_path / "data", "jsonl"), **values) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bad_row_is_told_before_training(tmp_path, capsys):
    folder = write_shards(tmp_path / "data", "jsonl", changed={18: {"face": [1.0, float("inf"), 0.0]}})
    assert run(tmp_path, folder) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "row 18" in error
    assert "NaN or Inf at step 0, dimension 1" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("streaming", [True, False])
def test_the_second_run_makes_no_pass_over_the_training_rows(tmp_path, monkeypatch, streaming):
    folder = write_shards(tmp_path / "data", "jsonl")
    values = {"normalize_features": True, "streaming": streaming} | ({} if streaming else {"shuffle_buffer_size": None})
    assert run(tmp_path, folder, **values) == 0
    passes = []
    for module, name in ((build, "validate_dataset"), (vocabulary, "train_tokenizer_on")):
        made = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, made=made, **k: passes.append(name) or made(*a, **k))
    steps = validation.steps_of
    monkeypatch.setattr(
        "hf_mmalign.data.feature_statistics.steps_of", lambda *a: passes.append("statistics") or steps(*a)
    )
    assert run(tmp_path, folder, name="second", **values) == 0
    assert passes == []
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "second"))
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, atol=1e-6, rtol=0, msg=key)
    for name in ("tokenizer.json", "feature_statistics.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    # Other rows are looked at again.
    write_shards(folder, "jsonl", changed={2: {"face": [9.0, 9.0, 9.0]}})
    assert run(tmp_path, folder, name="third", **values) == 0
    assert set(passes) == {"validate_dataset", "train_tokenizer_on", "statistics"}


def test_a_picture_that_changes_under_the_same_path_is_looked_at_again(tmp_path, capsys):
    pictures = tmp_path / "data"
    pictures.mkdir()
    rows = []
    for number in range(12):
        Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(pictures / f"{number}.png")
        rows.append({"image": f"data/{number}.png", "text": f"text {number}", "label": number % 2})
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {"splits": {"validation": 0.25, "test": 0.25}}
    values = {"streaming": False, "shuffle_buffer_size": None, "dataset_options": options, "max_steps": 1}
    values |= {"model_type": "vilt_wma", "image_size": 32, "patch_size": 16}
    assert run(tmp_path, table, **values) == 0
    (pictures / "3.png").write_bytes(b"no picture")
    assert run(tmp_path, table, name="second", **values) == 2
    assert "3.png" in capsys.readouterr().err
