"""Training against critics: what is exact, and what is saved."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import TrainingArguments

from hf_mmalign import MultimodalTrainer, MultimodalTrainingArguments
from hf_mmalign.trainer.adversary import Adversary
from hf_mmalign.trainer.checkpoints import CheckpointError, last_whole_checkpoint
from tests.trainer.test_resume import assert_same_run
from tests.trainer.test_trainer import run_script, train_log
from tests.trainer.training import build_fusion, build_trainer, collate, weights

GAN = {"fusion": "gan", "latent_size": 8, "dropout": 0.0}
AAF = {"fusion": "def_aaf", "latent_size": 8, "class_dropout": 0.0, "dropout": 0.0}
EVERY_STEP = {"save_strategy": "steps", "save_steps": 1}
FUSIONS = pytest.mark.parametrize("fields", [GAN, AAF], ids=["gan", "def_aaf"])


def trained(folder, fields, resume=None, **arguments):
    trainer = build_trainer(folder, build_fusion(**fields), **arguments)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return trainer


@FUSIONS
def test_critics_are_trained_logged_and_saved_beside_the_model(tmp_path, fields):
    trainer = trained(tmp_path, fields, critic_steps=2, **EVERY_STEP)
    critics = trainer.adversary.critics
    torch.manual_seed(0)
    term, told = ("generator", "accuracy") if fields is GAN else ("alignment", "distance")
    for entry in train_log(trainer):
        for name in ("audio", "vision"):
            assert {f"loss_{term}_{name}", f"critic_loss_{term}_{name}", f"critic_{told}_{term}_{name}"} <= set(entry)
    saved = load_file(tmp_path / "checkpoint-4/adversary.safetensors")
    for name, tensor in critics.state_dict().items():
        assert_close(saved[f"critics.{name}"], tensor, atol=0, rtol=0)
    assert {int(value) for name, value in saved.items() if name.endswith(".step")} == {8}
    assert not any("critic" in name for name in load_file(tmp_path / "checkpoint-4/model.safetensors"))
    assert not any(parameter.requires_grad for parameter in critics.parameters())


def test_the_critics_take_adam_s_steps_on_the_rows_of_the_step(tmp_path):
    """By hand, for the first step: the rows are those of the model before it."""
    trainer = build_trainer(tmp_path, build_fusion(**AAF), max_steps=1, critic_learning_rate=0.01)
    torch.manual_seed(5)
    adversary = Adversary.of(trainer.args, trainer.multimodal_model, trainer.accelerator)
    critic = adversary.critics["shared"]
    real, fake = torch.randn(2, 6, 8).unbind()
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    adversary.collect(
        {"critic_inputs": {"alignment_audio": ("shared", real[:2], fake[:2], torch.tensor([True, True]))}}
    )
    adversary.collect(
        {"critic_inputs": {"alignment_audio": ("shared", real[2:], fake[2:], torch.tensor([True, False, True, True]))}}
    )
    adversary.step(3)
    moved = {name: value.clone() for name, value in critic.state_dict().items()}
    critic.load_state_dict(before)
    critic.requires_grad_(True)
    counted = torch.tensor([True, True, True, False, True, True])
    draws = torch.Generator().manual_seed(trainer.args.seed + 3 * 1_000_003)
    losses, told = critic.losses(real, fake, counted, draws)
    gradients = torch.autograd.grad(losses[counted].mean(), list(critic.parameters()))
    for (name, value), gradient in zip(before.items(), gradients, strict=True):
        # Adam's first step is the sign of the gradient, except where that is near its epsilon.
        clear = gradient.abs() > 1e-5
        assert_close((value - moved[name])[clear], 0.01 * gradient.sign()[clear], atol=1e-4, rtol=0)
    assert adversary.logs()["critic_distance_alignment_audio"] == pytest.approx(
        told["distance"][counted].mean().item(), abs=1e-6
    )
    assert adversary.logs() == {}


@FUSIONS
@pytest.mark.parametrize("checkpoint", [1, 3])
def test_resumed_as_if_it_had_not_been_interrupted(tmp_path, fields, checkpoint):
    whole = trained(tmp_path / "whole", fields | {"dropout": 0.2}, critic_steps=2, **EVERY_STEP)
    resume = tmp_path / "whole" / f"checkpoint-{checkpoint}"
    resumed = trained(tmp_path / "resumed", fields | {"dropout": 0.2}, resume, critic_steps=2, **EVERY_STEP)
    assert_same_run(whole, resumed)
    for name, tensor in whole.adversary.critics.state_dict().items():
        assert_close(resumed.adversary.critics.state_dict()[name], tensor, atol=1e-6, rtol=0)


def test_a_checkpoint_without_its_critics_is_refused(tmp_path):
    trained(tmp_path, GAN, max_steps=2, **EVERY_STEP)
    (tmp_path / "checkpoint-2/adversary.safetensors").unlink()
    assert last_whole_checkpoint(tmp_path).endswith("checkpoint-1"), "asked without a model, as the command does"
    with pytest.raises(CheckpointError, match=r"checkpoint-2 is not whole: adversary.safetensors, which holds"):
        trained(tmp_path, GAN, tmp_path / "checkpoint-2", max_steps=3, **EVERY_STEP)
    again = build_trainer(tmp_path, build_fusion(**GAN), max_steps=2, **EVERY_STEP)
    assert again._usable_checkpoint(True).endswith("checkpoint-1")
    shutil.copy(tmp_path / "checkpoint-1/model.safetensors", tmp_path / "checkpoint-1/adversary.safetensors")
    with pytest.raises(CheckpointError, match="is not of this model's critics"):
        trained(tmp_path, GAN, tmp_path / "checkpoint-1", max_steps=3, **EVERY_STEP)


def test_accumulation_and_batch_are_one(tmp_path):
    """Two micro-batches of 2 train model and critics as one batch of 4 does, where no term depends on the batch."""
    fields = AAF | {"contrastive_weight": 0.0}
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    # Full batches of samples that have everything: the means over samples are then equal too.
    keywords = {"train_dataset": Complete(), "eval_dataset": None}
    runs = []
    for arguments in ({"per_device_train_batch_size": 4}, halves):
        trainer = build_trainer(tmp_path / str(len(runs)), build_fusion(**fields), keywords, optim="sgd", **arguments)
        trainer.train()
        runs.append(trainer)
    one, two = runs
    for name, tensor in weights(one.model).items():
        assert_close(weights(two.model)[name], tensor, atol=1e-5, rtol=1e-4)
    for name, tensor in one.adversary.critics.state_dict().items():
        # Adam divides a gradient by its own size: where that is tiny, rounding shows.
        assert_close(two.adversary.critics.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)


class Complete(torch.utils.data.Dataset):
    """Sixteen samples with both modalities."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.features = {
            "vision": torch.randn(16, 3, 5, generator=generator),
            "audio": torch.randn(16, 2, 3, generator=generator),
        }
        self.labels = torch.randint(0, 2, (16,), generator=generator)

    def __len__(self):
        return 16

    def __getitem__(self, index):
        rows = {name: values[index : index + 1] for name, values in self.features.items()}
        return {"features": rows, "labels": self.labels[index : index + 1]}


@pytest.mark.slow
def test_two_processes_train_the_critics_on_the_rows_of_both(tmp_path):
    """Each row counts the same, though the processes have different numbers with audio: with a model that stands still,
    and without the penalty's random numbers, the critics are those of one process."""
    still = {"learning_rate": 0.0, "max_steps": 6, "critic_steps": 2}
    split = {"per_device_train_batch_size": 2, "ddp_backend": "gloo"}
    fields = AAF | {"gradient_penalty": 0.0}
    run_script(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "tests.trainer.training", str(tmp_path / "two"), "--model", "fusion", "--fields", json.dumps(fields),
        "--arguments", json.dumps(still | split), json.dumps({"max_steps": 3} | split),
    )  # fmt: skip
    single = trained(tmp_path / "one", fields, **still)
    single.adversary.save(tmp_path / "one")
    two, one = (load_file(tmp_path / name / "adversary.safetensors") for name in ("two", "one"))
    assert two.keys() == one.keys()
    for name, tensor in one.items():
        assert_close(two[name], tensor, atol=1e-4, rtol=1e-3)  # Adam, as above
    log = json.loads((tmp_path / "two/log.json").read_text())
    for entry, other in zip(log[:6], train_log(single), strict=True):
        names = [name for name in entry if name.startswith(("critic_loss", "critic_distance"))]
        assert {name: entry[name] for name in names} == pytest.approx({name: other[name] for name in names}, abs=1e-4)
    # And one that moves trains on.
    assert len(json.loads((tmp_path / "two/1/log.json").read_text())) == 4


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    arguments = EVERY_STEP | {"critic_steps": 2}
    command = [
        sys.executable, "-m", "tests.trainer.training", str(tmp_path / "killed"), "--model", "fusion",
        "--fields", json.dumps(GAN), "--arguments", json.dumps(arguments),
    ]  # fmt: skip
    run_script(*command, "--kill-at", "3", expect_success=False)
    run_script(*command, "--resume")
    whole = trained(tmp_path / "whole", GAN, **arguments)
    found = load_file(tmp_path / "killed/final.safetensors")
    for name, tensor in weights(whole.model).items():
        assert_close(found[name], tensor, atol=1e-6, rtol=0)
    critics = load_file(tmp_path / "killed/adversary.safetensors")
    for name, tensor in whole.adversary.critics.state_dict().items():
        assert_close(critics[f"critics.{name}"], tensor, atol=1e-6, rtol=0)


@FUSIONS
def test_bf16_keeps_the_critics_in_single_precision(tmp_path, fields):
    trainer = trained(tmp_path, fields, bf16=True, max_steps=2)
    assert {tensor.dtype for tensor in trainer.adversary.critics.parameters()} == {torch.float32}
    assert all(torch.tensor(value).isfinite() for value in train_log(trainer)[-1].values())


def test_stock_arguments_know_of_no_critics(tmp_path):
    trainer = MultimodalTrainer(
        build_fusion(**GAN),
        TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none", remove_unused_columns=False),
        train_dataset=Complete(),
        data_collator=collate,
    )
    with pytest.raises(ValueError, match="are MultimodalTrainingArguments; args is TrainingArguments"):
        trainer.train()


def test_without_alignment_there_is_no_adversary(tmp_path):
    trainer = trained(tmp_path, AAF | {"alignment_weight": 0.0}, max_steps=1)
    assert trainer.adversary is None
    assert not (tmp_path / "checkpoint-1/adversary.safetensors").exists()


def test_a_run_goes_on_without_critics_where_they_are_no_longer_wanted(tmp_path):
    fields = AAF | {"alignment_weight": 0.0}
    trained(tmp_path, AAF, max_steps=1, **EVERY_STEP)
    trained(tmp_path, fields, tmp_path / "checkpoint-1", max_steps=2, **EVERY_STEP)
    assert not (tmp_path / "checkpoint-2/adversary.safetensors").exists()
    trained(tmp_path, fields, tmp_path / "checkpoint-2", max_steps=3, **EVERY_STEP)


def test_after_training_the_model_is_on_its_own_again(tmp_path):
    trainer = trained(tmp_path, GAN, max_steps=1)
    model, batch = trainer.model, trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    assert set(model.train()(**batch).losses) == {"task"}
    trainer.train()  # and against its critics once more
    assert "loss_generator_audio" in train_log(trainer)[-1]


def test_several_gpus_in_one_process_are_refused(tmp_path):
    trainer = build_trainer(tmp_path, build_fusion(**GAN))
    trainer.args._n_gpu = 2
    with pytest.raises(ValueError, match="a process for each of the 2 GPUs"):
        trainer.create_optimizer()


@pytest.mark.parametrize("arguments", [{"critic_learning_rate": 0.0}, {"critic_steps": 0}])
def test_values_out_of_range(tmp_path, arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name} is 0"):
        MultimodalTrainingArguments(str(tmp_path), **arguments)
