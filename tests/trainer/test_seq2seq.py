"""MultimodalSeq2SeqTrainer by itself, as a script uses it."""

import torch
from torch.testing import assert_close
from torch.utils.data import Dataset
from transformers import GenerationConfig

from hf_mmalign import MultimodalSeq2SeqTrainer, MultimodalSeq2SeqTrainingArguments
from tests.models.translation import text_only, translator
from tests.tiny import rows_of
from tests.trainer.test_trainer import assert_same_weights
from tests.trainer.training import collate, weights


class Rows(Dataset):
    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch["labels"])

    def __getitem__(self, index):
        return rows_of(self.batch, [index])


def trainer_of(folder, model, batch, keywords=None, **arguments):
    defaults = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 2,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
        "generation_max_length": 7,
    }
    data = Rows(batch)
    args = MultimodalSeq2SeqTrainingArguments(str(folder), **defaults | arguments)
    keywords = {"train_dataset": data, "eval_dataset": data, "data_collator": collate} | (keywords or {})
    return MultimodalSeq2SeqTrainer(model, args, **keywords)


def test_it_generates_logs_every_component_and_saves_how_it_generated(tmp_path):
    model, batch, labels = translator(fusion="auto")
    seen = []
    keep = {"compute_metrics": lambda prediction: seen.append(prediction) or {"bleu": 1.0}}
    trainer = trainer_of(tmp_path, model, batch | {"labels": labels}, keep, generation_num_beams=2)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all({"loss_task", "loss_reconstruction"} <= set(entry) for entry in logged)
    metrics = trainer.evaluate()
    assert {"eval_bleu", "eval_loss", "eval_loss_task", "eval_loss_reconstruction"} <= set(metrics)
    with torch.no_grad():
        expected = model.eval()(**batch, labels=labels)
    # Of batches of two, whose mean over tokens is weighted by samples, as Trainer's own loss is.
    halves = [model(**rows_of(batch, rows), labels=labels[rows]).losses["task"] for rows in ([0, 1], [2, 3])]
    assert abs(metrics["eval_loss_task"] - float(sum(halves) / 2)) < 1e-4
    assert expected.losses["reconstruction"] > 0
    (prediction,) = seen
    assert prediction.predictions.shape[0] == 4
    assert prediction.predictions.shape[1] <= 7
    assert prediction.label_ids.shape == labels.shape
    trainer.save_model(tmp_path / "saved")
    generation = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (generation.max_length, generation.num_beams) == (7, 2)


def test_without_generating_it_computes_the_loss_alone(tmp_path):
    model, batch, labels = text_only()
    trainer = trainer_of(tmp_path, model, batch | {"labels": labels}, predict_with_generate=False)
    assert set(trainer.evaluate()) >= {"eval_loss", "eval_loss_task"}


def test_trainers_own_label_smoothing_keeps_the_other_components(tmp_path):
    model, batch, labels = translator(fusion="auto")
    trainer = trainer_of(tmp_path, model, batch | {"labels": labels}, label_smoothing_factor=0.2)
    model.train()
    loss = trainer.compute_loss(model, batch | {"labels": labels})
    output = model(**batch, labels=labels)
    logits, told = output.logits, labels != -100
    smoothed = torch.nn.functional.cross_entropy(logits[told], labels[told], label_smoothing=0.2)
    assert_close(loss, smoothed + output.losses["reconstruction"], rtol=1e-4, atol=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    def run(folder, **arguments):
        model, batch, labels = translator(fusion="auto")
        settings = {"max_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2}
        return trainer_of(folder, model, batch | {"labels": labels}, **settings | arguments)

    whole = run(tmp_path / "whole")
    whole.train()
    resumed = run(tmp_path / "resumed")
    resumed.train(str(tmp_path / "whole" / "checkpoint-2"))
    # What is reloaded lies elsewhere in memory, where some CPUs round the last bit otherwise.
    assert_same_weights(weights(resumed.model), weights(whole.model), atol=2e-6, rtol=1e-4)
