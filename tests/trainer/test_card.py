"""`create_model_card` and `push_to_hub` write the package's own card."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import TrainerState

from hf_mmalign.trainer.told import scores_of_these_weights
from tests.loopback_hub import loopback_hub

from .training import build_model, build_trainer

ROOT = Path(__file__).resolve().parents[2]


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}


def trained(folder, **arguments):
    arguments = {"eval_strategy": "steps", "eval_steps": 2} | arguments
    trainer = build_trainer(folder, trainer_keywords={"compute_metrics": accuracy}, **arguments)
    trainer.train()
    return trainer


def card_of(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.split("---")[1]), text


def test_the_card_is_ours_and_claims_nothing_it_was_not_told(tmp_path):
    trained(tmp_path).create_model_card()
    metadata, text = card_of(tmp_path)
    assert metadata["library_name"] == "hf-mmalign"
    assert not {"license", "datasets", "model-index", "language", "base_model"} & set(metadata)
    assert "trained with Wasserstein Modality Alignment" in text
    assert "import hf_mmalign" in text
    assert "| evaluation |" in text
    assert "learning_rate: 0.01\n" in text
    assert "max_steps: 4\n" in text
    assert str(tmp_path) not in text
    assert "None" not in text


def test_what_the_arguments_tell_is_in_the_card(tmp_path):
    told = {"license": "mit", "dataset_name": "Random Samples", "model_title": "A fine model"}
    trainer = trained(tmp_path, **told)
    trainer.create_model_card()
    metadata, text = card_of(tmp_path)
    assert metadata["license"] == "mit"
    assert "# A fine model\n" in text
    assert "trained on Random Samples with" in text
    (result,) = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert (result.dataset_name, result.dataset_split, result.metric_type) == (
        "Random Samples",
        "evaluation",
        "accuracy",
    )
    assert result.metric_value == pytest.approx(trainer.evaluate()["eval_accuracy"])

    trainer.create_model_card(license="cc-by-4.0", dataset_name="Others", model_title="Another")
    metadata, text = card_of(tmp_path)
    assert metadata["license"] == "cc-by-4.0"
    assert "trained on Others with" in text
    assert "# Another\n" in text


def test_the_calls_of_other_scripts_work(tmp_path):
    about = {"language": "en", "tasks": "text-classification", "dataset": ["One", "Two"], "dataset_args": "all"}
    trained(tmp_path).create_model_card(
        **about, finetuned_from="google-bert/bert-base-uncased", dataset_tags=["me/one"], tags="mine", model_name="it"
    )
    metadata, text = card_of(tmp_path)
    assert metadata["language"] == "en"
    assert metadata["base_model"] == "google-bert/bert-base-uncased"
    assert metadata["datasets"] == ["me/one"]
    assert {"mine", "hf-mmalign"} < set(metadata["tags"])
    assert "trained on One, Two with" in text
    assert "# it\n" in text


def test_an_adapter_has_our_card_too(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = build_model()
    model.config.name_or_path = str(tmp_path)
    lora = LoraConfig(target_modules=["query"], modules_to_save=model.modules_outside_backbone)
    trainer = build_trainer(tmp_path, get_peft_model(model, lora), max_steps=1)
    trainer.train()
    trainer.save_model()  # peft leaves its own card
    trainer.create_model_card()
    metadata, text = card_of(tmp_path)
    assert {"peft", "hf-mmalign"} < set(metadata["tags"])
    assert "Wasserstein Modality Alignment" in text
    assert str(tmp_path) not in text


def history(*entries):
    return TrainerState(log_history=[dict(entry) for entry in entries], global_step=4, best_global_step=2)


def evaluated(step, accuracy, prefix="eval"):
    return {f"{prefix}_accuracy": accuracy, f"{prefix}_runtime": 1.0, f"{prefix}_steps_per_second": 2.0, "step": step}


END = {"train_runtime": 3.0, "train_loss": 0.1, "step": 4}


@pytest.mark.parametrize(
    ("entries", "loads_best", "expected"),
    [
        ([evaluated(2, 0.8), evaluated(4, 0.6), END], False, {"evaluation": {"accuracy": 0.6}}),
        ([evaluated(2, 0.8), evaluated(4, 0.6), END], True, {"evaluation": {"accuracy": 0.8}}),
        ([evaluated(2, 0.8), END], False, {}),
        ([evaluated(2, 0.8), END, evaluated(4, 0.7)], False, {"evaluation": {"accuracy": 0.7}}),
        (
            [evaluated(2, 0.8), END, evaluated(4, 0.9, "test")],
            True,
            {"evaluation": {"accuracy": 0.8}, "test": {"accuracy": 0.9}},
        ),
        ([evaluated(4, 0.5, "eval_own"), END], False, {"own": {"accuracy": 0.5}}),
        ([], False, {}),
    ],
    ids=["last", "best", "before the last step", "evaluated again", "test", "several sets", "never"],
)
def test_scores_are_of_the_weights_at_hand(entries, loads_best, expected):
    assert scores_of_these_weights(history(*entries), loads_best) == expected


PUSH = """
import sys
from transformers import AutoModelForSequenceClassification
from tests.trainer.training import build_trainer

trainer = build_trainer(sys.argv[1], hub_model_id="me/aligned", license="mit", max_steps=1)
trainer.train()
trainer.push_to_hub(dataset_name="Random Samples")
print(type(AutoModelForSequenceClassification.from_pretrained("me/aligned")).__name__)
"""


def test_push_to_hub_uploads_the_card(tmp_path):
    with loopback_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-c", PUSH, str(tmp_path / "out")],
            env=hub.environment(tmp_path / "home"), cwd=ROOT, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("BertWmaForSequenceClassification\n")
    files = hub.repositories["me/aligned"]
    assert {"README.md", "config.json", "model.safetensors", "requires_hf_mmalign.py"} <= set(files)
    card = files["README.md"].decode()
    assert '"me/aligned")' in card
    assert "license: mit" in card
    assert "trained on Random Samples with" in card
