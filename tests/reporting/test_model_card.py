import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import ViltImageProcessor

from hf_mmalign import (
    BertWmaConfig,
    BertWmaForSequenceClassification,
    FusionConfig,
    FusionSeq2SeqConfig,
    MultimodalProcessor,
    ViltWmaConfig,
    ViltWmaForSequenceClassification,
)
from hf_mmalign.data.processor import train_tokenizer
from hf_mmalign.reporting.methods import METHODS, method_of
from hf_mmalign.reporting.model_card import write_model_card
from tests.models.translation import TEXT_CONFIGS

from .test_robustness import make_report

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
RESULTS = {
    "primary_metric": "auroc",
    "train": {"seconds": 12.0, "epochs": 3.0, "seed": 42},
    "validation": {"loss": 0.5, "loss_task": 0.4, "accuracy": 0.71, "auroc": 0.745},
    "test": {"loss": 0.6, "loss_task": 0.4, "accuracy": 0.7, "auroc": 0.741234},
}


def vilt(**arguments):
    arguments = {"problem_type": "single_label_classification", "num_labels": 2, "wma_beta": 2.0} | arguments
    config = ViltWmaConfig(
        **SIZES, image_size=32, patch_size=16, vocab_size=60, cls_token_id=2, sep_token_id=3, **arguments
    )
    return ViltWmaForSequenceClassification(config)


def bert(**arguments):
    arguments = {"problem_type": "regression", "num_labels": 1, "feature_sizes": {"vision": 5, "audio": 3}} | arguments
    config = BertWmaConfig(**SIZES, vocab_size=60, cls_token_id=2, sep_token_id=3, **arguments)
    return BertWmaForSequenceClassification(config)


def write(folder, model, **arguments):
    arguments = {"dataset_name": "Hateful Memes", "results": RESULTS} | arguments
    path = write_model_card(folder, model, **arguments)
    return path.read_text(encoding="utf-8")


def metadata(folder):
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])


def check_hub_rules(data):
    """What the Hub refuses a card for, as its error messages print the rules."""
    for entry in data.get("model-index", []):
        assert isinstance(entry["name"], str)
        for result in entry["results"]:
            assert isinstance(result["task"]["type"], str)
            assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", result["dataset"]["type"], flags=re.ASCII)
            assert isinstance(result["dataset"]["name"], str)
            for metric in result["metrics"]:
                assert isinstance(metric["type"], str)
                assert isinstance(metric["value"], float)
                assert metric["value"] == metric["value"]
    for name in data.get("datasets", []):
        assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", name, flags=re.ASCII)
    assert all(isinstance(tag, str) for tag in data["tags"])


def test_metadata_is_what_the_hub_takes(tmp_path):
    recipe = {"model_name_or_path": "dandelin/vilt-b32-mlm"}
    write(tmp_path, vilt(), robustness=make_report(), recipe=recipe, license="cc-by-nc-4.0")
    data = metadata(tmp_path)
    check_hub_rules(data)
    assert data["library_name"] == "hf-mmalign"
    assert data["license"] == "cc-by-nc-4.0"
    assert data["base_model"] == "dandelin/vilt-b32-mlm"
    assert "pipeline_tag" not in data  # no stock pipeline serves several modalities
    assert data["datasets"] == ["hateful-memes"]
    assert data["metrics"] == ["accuracy", "auroc"]
    assert {"hf-mmalign", "multimodal", "wasserstein-modality-alignment", "text", "image"} <= set(data["tags"])


def test_results_are_read_back_by_the_hub_library(tmp_path):
    write(tmp_path, vilt(), robustness=make_report())
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    values = {(r.dataset_split, r.metric_name): r.metric_value for r in results}
    assert values["test", "AUROC"] == 0.741234
    assert values["validation", "accuracy"] == 0.71
    assert values["test", "AUROC (text noise 3)"] == pytest.approx(0.75)
    assert values["test", "AUROC (image missing 50 %)"] == pytest.approx(0.7)
    assert not any("loss" in name.lower() for _, name in values)


def test_the_text_says_what_how_and_how_well(tmp_path):
    (tmp_path / "robustness.png").write_bytes(b"picture")
    text = write(tmp_path, vilt(), robustness=make_report(), recipe={"wma_alpha": 1.0, "wma_beta": 2.0, "seed": 7})
    for part in (
        "ViltWmaForSequenceClassification",
        "Zhuo Zhi, Ziquan Liu, Qiangqiang Wu, Miguel Rodrigues",
        "Wasserstein Modality Alignment Makes Your Multimodal Transformer More Robust",
        "Here `wma_alpha` = 1.0 and `wma_beta` = 2.0.",
        "| test       |",
        "0.741",
        "| text noise 3",
        "](robustness.png)",
        "**AUROC**: area under the ROC curve",
        "wma_beta: 2.0\nseed: 7",
        f"torch {torch.__version__.split('+')[0]}",
        "## Limitations",
    ):
        assert part in text, part
    assert "{{" not in text
    assert "{%" not in text
    assert "None" not in text
    assert "\n\n\n" not in text


def test_a_card_needs_no_robustness_recipe_or_results(tmp_path):
    text = write(tmp_path, bert(), results={}, dataset_name="my own data (2026)!")
    check_hub_rules(metadata(tmp_path))
    assert metadata(tmp_path)["datasets"] == ["my-own-data-2026"]
    assert "model-index" not in metadata(tmp_path)
    assert "pipeline_tag" not in metadata(tmp_path)
    assert "No evaluation was recorded" in text
    assert "robustness" not in text.lower().split("limitations")[1]
    assert "\n\n\n" not in text


def test_a_card_claims_nothing_it_was_not_told(tmp_path):
    text = write(tmp_path / "my-model", vilt(), dataset_name=None, robustness=make_report(), recipe={"seed": 7})
    data = metadata(tmp_path / "my-model")
    check_hub_rules(data)
    assert not {"license", "datasets", "model-index", "language", "base_model"} & set(data)
    assert "# my-model\n" in text
    assert "from text and image, trained with Wasserstein Modality Alignment (WMA)." in text
    assert "| test       |" in text
    assert "None" not in text


def test_a_card_claims_what_it_was_told(tmp_path):
    told = {"license": "mit", "model_title": "Memes, aligned", "language": ["en", "de"], "tags": ["memes"]}
    text = write(tmp_path, vilt(), dataset_ids=["me/memes"], **told)
    data = metadata(tmp_path)
    assert (data["license"], data["language"], data["datasets"]) == ("mit", ["en", "de"], ["me/memes"])
    assert "memes" in data["tags"]
    assert {result["dataset"]["type"] for result in data["model-index"][0]["results"]} == {"me/memes"}
    assert "# Memes, aligned\n" in text


@pytest.mark.parametrize(
    ("arguments", "method"),
    [({"wma_alpha": 0.0}, "plain"), ({"wma_alpha": 1.0, "wma_beta": 0.0}, "minimise_ot"), ({"wma_alpha": 5.0}, "wma")],
)
def test_the_method_is_read_from_the_config(tmp_path, arguments, method):
    text = write(tmp_path, vilt(**arguments))
    assert METHODS[method].summary in text
    assert METHODS[method].tag in metadata(tmp_path)["tags"]
    assert ("Zhuo Zhi" in text) is (method != "plain")


@pytest.mark.parametrize("config_class", [FusionConfig, FusionSeq2SeqConfig])
def test_every_fusion_is_a_method_with_settings_that_its_config_has(config_class):
    text = {"text_config": TEXT_CONFIGS["marian"]} if config_class is FusionSeq2SeqConfig else {}
    for fusion in get_args(get_type_hints(config_class, localns={"torch": torch})["fusion"]):
        config = config_class(feature_sizes={"audio": 3, "vision": 4}, fusion=fusion, **text)
        method = METHODS[method_of(config)]
        assert all(hasattr(config, name) for name in method.settings), fusion


def test_undefined_values_stay_out_of_the_metadata(tmp_path):
    text = write(tmp_path, vilt(), results={"test": {"auroc": float("nan"), "accuracy": 1.0}})
    check_hub_rules(metadata(tmp_path))
    assert [m["type"] for m in metadata(tmp_path)["model-index"][0]["results"][0]["metrics"]] == ["accuracy"]
    assert "–" in text


def test_paths_of_this_machine_stay_here(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    recipe = {"model_name_or_path": str(base), "output_dir": "/somewhere/runs/wma", "dataset_path": "data/here"}
    recipe["dataset_options"] = {"files": ["/somewhere/else/table.csv"]}
    text = write(tmp_path / "run", vilt(), recipe=recipe)
    assert "base_model" not in metadata(tmp_path / "run")
    assert str(tmp_path) not in text
    assert "/somewhere" not in text
    assert "output_dir: wma" in text
    assert "dataset_path: data/here" in text


def test_what_cannot_be_described_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'minimise_ot'"):
        write(tmp_path, vilt(), method="magic")
    with pytest.raises(ValueError, match=r"\['accuracy'\] is no number but 'high'"):
        write(tmp_path, vilt(), results={"test": {"accuracy": "high"}})
    model = vilt()
    model.config.problem_type = None
    with pytest.raises(ValueError, match="problem_type"):
        write(tmp_path, model)
    assert not (tmp_path / "README.md").exists()


TASKS = [("single_label_classification", 3), ("multi_label_classification", 3), ("regression", 1)]


@pytest.mark.parametrize("make", [vilt, bert])
@pytest.mark.parametrize(("problem_type", "num_labels"), TASKS)
def test_the_code_in_the_card_is_valid(tmp_path, make, problem_type, num_labels):
    text = write(tmp_path, make(problem_type=problem_type, num_labels=num_labels))
    compile(code_of(text), "README.md", "exec")


def code_of(text):
    return re.search(r"```python\n(.*?)```", text, flags=re.DOTALL).group(1)


def test_the_code_in_the_card_runs_in_a_fresh_python(tmp_path):
    tokenizer = train_tokenizer(["a sentence with words", "and another sentence"], vocab_size=60)
    image_processor = ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=16)
    folder = tmp_path / "my-model"
    model = vilt(
        problem_type="multi_label_classification",
        num_labels=3,
        id2label={0: "one", 1: "two", 2: "three"},
        feature_sizes={"audio": 7},
    )
    model.save_pretrained(folder)
    MultimodalProcessor(tokenizer, image_processor).save_pretrained(folder)
    text = write(folder, model)
    assert "LABEL_0" not in text
    repository = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(repository), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code_of(text)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("[")
