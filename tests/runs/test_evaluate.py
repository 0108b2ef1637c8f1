"""A folder that a user's own script saved: the command evaluates it when told the data."""

import json

import pytest
from transformers import BertConfig, ViltImageProcessor

from hf_mmalign import (
    MultimodalCollator,
    MultimodalProcessor,
    MultimodalTrainer,
    MultimodalTrainingArguments,
    ViltWmaConfig,
    ViltWmaForSequenceClassification,
    load_multimodal_dataset,
)
from hf_mmalign.cli.main import main
from hf_mmalign.data.processor import train_tokenizer

DATA = ["--dataset", "digits-captions", "--max_eval_samples", "32"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What README's quickstart leaves, on the embedded data."""
    folder = tmp_path_factory.mktemp("saved")
    data = load_multimodal_dataset("digits-captions")
    tokenizer = train_tokenizer(data["train"]["text"][:200], vocab_size=200)
    processor = MultimodalProcessor(tokenizer, ViltImageProcessor(do_resize=False, size_divisor=8))
    collator = MultimodalCollator(
        processor, {"text": "text", "image": "image"}, "single_label_classification", num_labels=2
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    config = ViltWmaConfig(**sizes, **ids, vocab_size=len(tokenizer), image_size=32, patch_size=8, num_labels=2)
    trainer = MultimodalTrainer(
        ViltWmaForSequenceClassification(config),
        MultimodalTrainingArguments(str(folder), max_steps=1, per_device_train_batch_size=8, report_to="none"),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=collator,
    )
    trainer.train()
    trainer.save_model(str(folder))
    return folder


def test_the_trainer_saves_the_processor_of_its_collator(saved):
    processor = MultimodalProcessor.from_pretrained(saved)
    assert processor.tokenizer is not None
    assert not processor.image_processor.do_resize
    assert (saved / "checkpoint-1" / "processor_config.json").exists()


def test_a_processing_class_that_is_given_is_kept(saved):
    processor = MultimodalProcessor.from_pretrained(saved)
    other = MultimodalProcessor.from_pretrained(saved, max_text_length=7)
    collator = MultimodalCollator(processor, {"text": "text"}, "single_label_classification", num_labels=2)
    model = ViltWmaForSequenceClassification.from_pretrained(saved)
    arguments = MultimodalTrainingArguments(str(saved), report_to="none")
    assert MultimodalTrainer(model, arguments, data_collator=collator).processing_class is processor
    assert MultimodalTrainer(model, arguments, collator, None, None, other).processing_class is other


def test_evaluate(saved, capsys):
    assert main(["evaluate", str(saved), *DATA]) == 0
    assert "auroc" in capsys.readouterr().out
    metrics = json.loads((saved / "evaluation_test.json").read_text())
    assert 0 <= metrics["accuracy"] <= 1
    assert main(["evaluate", str(saved / "checkpoint-1"), *DATA, "--split", "validation"]) == 0


def test_robustness(saved, capsys):
    assert main(["robustness", str(saved), *DATA, "--robustness_seeds", "0", "--missing_ratios", "0", "1"]) == 0
    assert "image missing" in capsys.readouterr().out
    assert (saved / "robustness.json").exists()


def test_plots(saved, capsys):
    assert main(["plot", "confusion", str(saved), *DATA]) == 0
    assert main(["plot", "modality-gap", str(saved), "--before", str(saved / "checkpoint-1"), *DATA]) == 0
    capsys.readouterr()
    assert main(["plot", "modality-gap", str(saved), *DATA]) == 2
    assert "--before FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["evaluate"], ["robustness"], ["plot", "confusion"]])
def test_nothing_names_the_data(saved, command, capsys):
    assert main([*command, str(saved)]) == 2
    error = capsys.readouterr().err
    assert str(saved) in error
    assert "--dataset NAME --dataset_path PATH" in error


def test_data_of_another_kind(saved, capsys):
    assert main(["evaluate", str(saved), "--dataset", "digits-views"]) == 2
    assert "'train.text': the model takes it" in capsys.readouterr().err


def test_a_problem_type_that_the_config_leaves_open_comes_from_the_data(saved, tmp_path, capsys):
    model = ViltWmaForSequenceClassification.from_pretrained(saved)
    model.config.problem_type = None
    model.save_pretrained(tmp_path)
    MultimodalProcessor.from_pretrained(saved).save_pretrained(tmp_path)
    assert main(["evaluate", str(tmp_path), *DATA]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_a_model_of_others(tmp_path, capsys):
    BertConfig().save_pretrained(tmp_path)
    assert main(["evaluate", str(tmp_path), *DATA]) == 2
    assert "'bert', which is none of this package" in capsys.readouterr().err
