"""What models cost, by the command `hf-mmalign efficiency`."""

import json

import pytest
import torch
import yaml
from accelerate.utils import send_to_device

from hf_mmalign import BertWmaConfig, BertWmaForSequenceClassification, runs
from hf_mmalign.cli.main import main
from hf_mmalign.evaluation.efficiency import count_flops, count_parameters
from hf_mmalign.evaluation.synthetic import synthetic_inputs
from hf_mmalign.runs.efficiency_process import MeasuredModel
from hf_mmalign.runs.efficiency_table import read_efficiency
from hf_mmalign.runs.tasks import task_of
from tests.models.translation import TEXT_CONFIGS
from tests.runs.test_recipe import RECIPES
from tests.tiny import BACKBONE, TOKENS

INPUTS = {"text": {"steps": 5, "width": 6}, "audio": {"steps": 7, "width": 3}}
FUSION = {"model_type": "mmalign_fusion", "hidden_size": 8}
# One pass and one step each, on the CPU.
SHORT = {"samples": 1, "train_steps": 1, "batch_size": 4, "train_samples": 10, "device": "cpu"}
TINY = SHORT | {"inputs": INPUTS, "models": {"late": FUSION}}
EFFICIENCY = RECIPES[0].parents[1] / "def-aaf" / "efficiency.yaml"


@pytest.fixture
def write(tmp_path):
    def call(values):
        path = tmp_path / "cost.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return str(path)

    return call


@pytest.fixture
def saved(tmp_path):
    """A one-tower with raw text and audio, as a script of one's own saves it."""
    config = BertWmaConfig(**BACKBONE | TOKENS | {"feature_sizes": {"audio": 3}, "num_labels": 3})
    folder = tmp_path / "one-tower"
    BertWmaForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_recipe_and_a_saved_folder_in_one_table(write, saved, tmp_path, capsys):
    models = {
        "late": FUSION | {"encoder": "lstm", "frozen": ["audio"]},
        "cal": FUSION | {"aib_weight": 0.1, "gradient_modulation": "cal", "modulation_mode": "lr"},
        "translation": {
            "model_type": "mmalign_fusion_seq2seq",
            "text_config": TEXT_CONFIGS["marian"],
            "hidden_size": 8,
        },
    }
    recipe = write(TINY | {"models": models, "reference": "late", "samples": 3, "train_steps": 2})
    files = {"json": tmp_path / "cost.json", "output": tmp_path / "tables" / "cost.md"}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert main(["efficiency", recipe, str(saved), *options, "--num_labels", "3", "--traceback"]) == 0
    assert capsys.readouterr().out == files["output"].read_text(encoding="utf-8")

    found = json.loads(files["json"].read_text())
    assert list(found["models"]) == ["one-tower", *models]
    assert found["reference"] == "late"
    assert found["machine"]["device"] == "cpu"
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["settings"]["inputs"] == INPUTS
    for entry in found["models"].values():
        assert entry["latency_ms_p95"] >= entry["latency_ms_median"] > 0
        assert entry["seconds_per_epoch"] == pytest.approx(entry["train_step_seconds"] * 3), "10 samples, 4 a step"
        assert entry["peak_memory_mib"] is None or entry["peak_memory_mib"] > 0
        assert entry["ratios"]["flops"] == pytest.approx(entry["flops"] / found["models"]["late"]["flops"])
    # Two LSTMs, means over time, a hidden layer and the output, by hand.
    late = found["models"]["late"]
    audio = 4 * 8 * (3 + 8 + 2)
    assert late["parameters"] == 4 * 8 * (6 + 8 + 2) + audio + (16 + 1) * 8 + (8 + 1) * 3
    assert late["trainable_parameters"] == late["parameters"] - audio
    encoded = 5 * 4 * 8 * (6 + 8) + 7 * 4 * 8 * (3 + 8)
    assert late["flops"] == 2 * (encoded + 5 * 8 + 7 * 8 + 16 * 8 + 8 * 3)
    assert set(late["ratios"].values()) <= {1.0, None}
    rows = files["output"].read_text(encoding="utf-8").splitlines()
    assert sum(row.startswith("| late ") for row in rows) == 2
    assert any(row.startswith("| ÷ late ") for row in rows)


def test_saved_folders_alone_say_what_they_take(saved, capsys):
    keys = SHORT | {"inputs": {"text": {"steps": 5}, "audio": {"steps": 7}}}
    report = runs.efficiency(saved, progress=False, **keys)
    assert capsys.readouterr().err == ""
    assert report.reference == "one-tower"
    parameters = sum(p.numel() for p in MeasuredModel("", str(saved)).build().parameters())
    assert report.models["one-tower"].parameters == parameters
    with pytest.raises(
        ValueError, match=r"one-tower: it takes 'audio' as features of width 3, and inputs has no steps"
    ):
        runs.efficiency(saved, **SHORT, inputs={"text": {"steps": 5}})


def test_a_model_that_fails_while_it_is_measured_is_named(write, capsys):
    """Only the model itself knows that its position table is too short."""
    one_tower = BACKBONE | TOKENS | {"model_type": "bert_wma", "modalities": ["text"], "feature_sizes": {}}
    one_tower["max_position_embeddings"] = 4
    assert main(["efficiency", write(TINY | {"models": {"late": FUSION, "short": one_tower}})]) == 2
    error = capsys.readouterr().err
    assert "short cannot be measured. ValueError: A text of 5 tokens is longer than the 4 positions" in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {}}, "names no model; expected `models: {NAME: {model_type: …}}`"),
        ({"models": {"late": ["mlp"]}}, "models: late is ['mlp']; expected fields of a config"),
        ({"models": {"late": {"hidden_size": 8}}}, "with its model_type"),
        ({"models": {"late": FUSION | {"model_type": "decaling"}}}, "model_type 'decaling' is unknown: did you mean"),
        ({"models": {"late": {"model_type": "bert"}}}, "model_type 'bert' is none of this package"),
        ({"models": {"late": FUSION | {"hiden_size": 8}}}, "models: late: unknown key 'hiden_size'. Did you mean"),
        ({"models": {"late": FUSION | {"max_steps": 8}}}, "models: late: max_steps is not for a single model"),
        ({"models": {"late": FUSION | {"hidden_size": 0}}}, "late: head_hidden_size is 0"),
        ({"models": {"late": FUSION | {"modalities": ["audio", "face"]}}}, "late: modalities has 'face'"),
        ({"models": {"late": FUSION | {"feature_sizes": {"audio": 4}}}}, "features of width 4, and inputs has width 3"),
        (
            {"models": {"late": FUSION | {"feature_sizes": {"face": 4}}}},
            "'face' as features of width 4, and inputs has no",
        ),
        ({"inputs": INPUTS | {"vidio": {"steps": 3}}}, "inputs has ['vidio'], which no model takes"),
        ({"inputs": {"text": 32}}, "inputs has text: 32; expected whole numbers of at least 1"),
        ({"inputs": {"text": {"steps": 0}}}, "expected whole numbers of at least 1 under steps"),
        ({"inputs": {"text": {"tokens": 3}}}, "inputs has text: {'tokens': 3}; expected"),
        ({"reference": "decalign"}, "reference is 'decalign'; expected one of ['late']"),
        ({"samples": 0}, "samples is 0; it is at least 1"),
        ({"device": "tpu"}, "device is 'tpu'; expected cpu or cuda"),
        ({"sampels": 3}, "unknown key 'sampels'. Did you mean 'samples'?"),
        ({"output_dir": "runs"}, "unknown key 'output_dir'"),
    ],
)
def test_recipes_that_cannot_be_used(write, changes, message, capsys):
    assert main(["efficiency", write(TINY | changes)]) == 2
    assert message in capsys.readouterr().err


def test_sources_that_are_none(write, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    recipe = write(TINY)
    for sources, message in (
        ([str(empty)], "empty holds no recipe.yaml and no config.json"),
        ([str(tmp_path / "nowhere")], "nowhere: No such file; a recipe is expected"),
        ([recipe, recipe], "is a second recipe, or no folder"),
        ([recipe, "--output", str(empty)], "empty is a folder; expected the path of a file to write"),
    ):
        assert main(["efficiency", *sources]) == 2
        assert message in capsys.readouterr().err


def test_its_recipe_is_not_for_training(capsys):
    assert main(["train", str(EFFICIENCY)]) == 2
    assert "has `models`, as recipes of `hf-mmalign efficiency` do" in capsys.readouterr().err


def test_the_recipe_of_the_paper_has_its_sizes():
    arguments, models = read_efficiency([EFFICIENCY], {})
    assert {name: size["steps"] for name, size in arguments.inputs.items()} == {"text": 32, "audio": 200, "video": 20}
    with torch.device("meta"):
        built = {model.name: task_of(model.config()).auto_model.from_config(model.config()) for model in models}
    parameters = {name: count_parameters(model)[0] for name, model in built.items()}
    assert parameters["plain-transformer"] == parameters["wma"] == pytest.approx(60e6, rel=0.01)
    assert parameters["mult-style"] == pytest.approx(45e6, rel=0.03)
    assert parameters["def-aaf"] <= 40e6
    assert {model.model_type for model in models} == {
        "bert_wma", "decalign", "mmalign_fusion", "mmalign_fusion_seq2seq"
    }  # fmt: skip
    # Eight layers of width 768 over 252 tokens and the class token: the paper's share of them, 95 of 150 GFLOPs.
    plain = 8 * (2 * 253 * 12 * 768**2 + 4 * 253**2 * 768)
    sample = send_to_device(synthetic_inputs(built["def-aaf"].config, arguments.inputs, 1), "meta")
    assert count_flops(built["def-aaf"], sample) <= 95 / 150 * plain
