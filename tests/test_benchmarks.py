"""Benchmarks run and write what they promise; what they measure is no matter of tests."""

import json
import shutil

import pytest
import torch
from transformers import AutoModel, ViltModel

from benchmarks import translation_step, vilt_without_a_hub, what_a_gate_decides
from hf_mmalign import runs


def test_translation_step_compares_every_fusion_with_the_plain_model(tmp_path, capsys):
    file = tmp_path / "figures.json"
    tiny = ["--device", "cpu", "--batch-size", "4", "--generate-batch-size", "2", "--width", "16", "--layers", "1"]
    tiny += ["--vocabulary", "120", "--words", "4", "--sentences", "60", "--repeats", "2", "--data-steps", "3"]
    translation_step.main([*tiny, "--json", str(file)])
    found = json.loads(file.read_text())
    assert list(found["fusions"]) == ["concat", "auto", "attention"]
    for key in ("train_ratio", "generate_ratio"):
        assert found[key] == min(of[key] for of in found["fusions"].values()) > 0
    assert 0 < found["data_wait_share"] < 1
    # Of the same size: what fusion adds to a wider model is less than that.
    assert all(found["plain"]["parameters"] < of["parameters"] for of in found["fusions"].values())
    said = capsys.readouterr().out
    assert "| attention |" in said
    assert "spent waiting for data" in said
    with pytest.raises(SystemExit):
        translation_step.parse_arguments(["--fusions", "sum"])


@pytest.fixture
def few_questions(shared_data, tmp_path):
    """easy-VQA's folder with its first 40 pictures."""
    source, folder = shared_data / "easy-vqa", tmp_path / "easy-vqa"
    for part in ("train", "test"):
        shutil.copytree(source / part / "images", folder / part / "images", ignore=_all_but_few)
        questions = json.loads((source / part / "questions.json").read_text())
        (folder / part / "questions.json").write_text(json.dumps([row for row in questions if row[2] < 40]))
    shutil.copy(source / "answers.txt", folder)
    return folder


def _all_but_few(_, names):
    return [name for name in names if int(name.removesuffix(".png")) >= 40]


def test_what_questions_tell_of_a_picture():
    questions = [
        ["is there not a blue shape?", "no", 0],
        ["is there a red shape?", "no", 0],
        ["is no circle present?", "yes", 0],
        ["what shape is present?", "triangle", 0],
        ["what is the teal shape?", "circle", 1],
        ["what color is the circle?", "red", 2],
        ["is a rectangle present?", "yes", 3],
    ]
    told = {0: ("blue", "triangle"), 1: ("teal", "circle"), 2: ("red", "circle")}
    assert vilt_without_a_hub.descriptions(questions, ["blue", "red", "teal"]) == told


def test_the_pretrained_vilt_and_its_half_load_as_stock_models(few_questions, tmp_path, capsys):
    vilt_without_a_hub.main([str(few_questions), str(tmp_path / "out"), "--epochs", "1", "--batch-size", "8"])
    assert "matching_accuracy" in capsys.readouterr().out
    folder = tmp_path / "out" / "vilt-easy-vqa"
    found = json.loads((folder / "pretraining.json").read_text())
    assert 0 < found["distance_matched"] < 2
    vilt, info = ViltModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    vit, info = AutoModel.from_pretrained(
        tmp_path / "out" / "vit-easy-vqa", add_pooling_layer=False, output_loading_info=True
    )
    assert not info["missing_keys"] | info["unexpected_keys"]
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        embedding = vilt.eval().embeddings
        patches = embedding.patch_embeddings(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([embedding.cls_token.expand(2, -1, -1), patches], 1) + embedding.position_embeddings
        tokens = vilt.encoder(tokens + embedding.token_type_embeddings.weight[1]).last_hidden_state
        torch.testing.assert_close(vit.eval()(pixels).last_hidden_state, vilt.layernorm(tokens), rtol=1e-4, atol=1e-4)
    keys = {"max_train_samples": 16, "max_eval_samples": 8, "max_steps": 1, "robustness": False, "report_to": "none"}
    keys |= {"dataset_path": str(few_questions), "output_dir": str(tmp_path / "run")}
    keys |= {"model_name_or_path": str(folder), "drop": ["tokenizer_vocab_size", "image_processor"]}
    run = runs.train("wma/easy-vqa", **keys)
    assert run.model.config.hidden_size == vilt.config.hidden_size


def test_what_a_gate_decides(tmp_path, capsys):
    few = {"num_train_epochs": 1, "max_train_samples": 200, "robustness": False, "disable_tqdm": True}
    gated = runs.train("fusion/smoke", output_dir=tmp_path / "gate", fusion="def_aaf", latent_size=8, **few)
    runs.train("fusion/smoke", output_dir=tmp_path / "concat", **few)
    capsys.readouterr()
    what_a_gate_decides.main([str(tmp_path / "gate")])
    lines = [line.rsplit(" ", 3) for line in capsys.readouterr().out.splitlines()]
    found = {name.strip(): float(mean) for name, mean, _, _ in lines}
    names = gated.model.config.modalities
    assert list(found) == ["gate", *(f"{name} alone" for name in names), "equal weights", "mean class embedding"]
    assert found["gate"] == pytest.approx(gated.results["test"]["accuracy"], abs=5e-4)
    with pytest.raises(SystemExit, match="no classifier with a gate"):
        what_a_gate_decides.main([str(tmp_path / "concat")])


def test_weights_are_shared_out_among_what_a_sample_has():
    present = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])
    given = what_a_gate_decides.shared_out(torch.tensor([1.0, 0, 0]), present)
    assert given.tolist() == [[1, 0, 0], [0, 0.5, 0.5], [0, 0, 0]]
    assert what_a_gate_decides.shared_out(torch.ones(3), present)[1].tolist() == [0, 0.5, 0.5]
