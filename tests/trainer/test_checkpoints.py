"""Which checkpoints training goes on from: whole ones of this model, and of those the newest."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from hf_mmalign.trainer.checkpoints import CheckpointError, check_tensors, check_whole, last_whole_checkpoint
from tests.trainer.training import build_model, build_trainer

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    build_trainer(folder, save_strategy="steps", save_steps=1, max_steps=2).train()
    return folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [Path.unlink, cut, empty], ids=["lost", "cut", "empty"])
def test_a_damaged_checkpoint_is_passed_over_and_refused_by_name(folder, name, damage, caplog):
    newest = folder / "checkpoint-2"
    assert last_whole_checkpoint(folder) == str(newest)
    damage(newest / name)
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-1")
    assert "checkpoint-2" in caplog.text
    with pytest.raises(CheckpointError, match=rf"checkpoint-2 .*{name}"):
        build_trainer(folder).train(resume_from_checkpoint=str(newest))


def test_resuming_takes_the_newest_whole_checkpoint(folder):
    empty(folder / "checkpoint-2" / "optimizer.pt")
    trainer = build_trainer(folder, max_steps=3, logging_steps=1)
    trainer.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3]


def test_a_folder_without_a_whole_checkpoint_is_named(folder):
    for path in folder.glob("checkpoint-*"):
        (path / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match="No whole checkpoint"):
        build_trainer(folder).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="nowhere is no folder"):
        build_trainer(folder).train(resume_from_checkpoint=str(folder / "nowhere"))


@pytest.mark.parametrize("state", ["[]", "5", '{"epoch": 1}', "[" * 100_000])
def test_a_state_that_is_none_is_not_taken_for_one(folder, state):
    (folder / "checkpoint-2" / "trainer_state.json").write_text(state)
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-1")


def test_a_missing_tensor_or_another_model_s_is_an_error(folder):
    file = folder / "checkpoint-2" / "model.safetensors"
    tensors = load_file(file)
    del tensors["classifier.weight"]
    save_file(tensors, file)
    for asked in (True, str(folder / "checkpoint-2")):
        with pytest.raises(CheckpointError, match=r"lack classifier\.weight"):
            build_trainer(folder).train(resume_from_checkpoint=asked)
    with pytest.raises(CheckpointError, match="not of this model: classifier"):
        build_trainer(folder, build_model(num_labels=3)).train(resume_from_checkpoint=str(folder / "checkpoint-1"))


def test_of_tied_tensors_one_is_enough(folder):
    checkpoint, weight = folder / "checkpoint-2", torch.ones(3)
    save_file({"head.weight": weight}, checkpoint / "model.safetensors")
    check_tensors(checkpoint, {"embedding.weight": weight, "head.weight": weight})
    with pytest.raises(CheckpointError, match=r"lack embedding\.weight"):
        check_tensors(checkpoint, {"embedding.weight": weight.clone(), "head.weight": weight})


def test_every_process_needs_its_random_state(folder):
    checkpoint = folder / "checkpoint-2"
    with pytest.raises(CheckpointError, match="written with 1 process; with 2"):
        check_whole(checkpoint, world_size=2)
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    with pytest.raises(CheckpointError, match=r"rng_state_1\.pth is missing"):
        check_whole(checkpoint, world_size=2)
    shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    check_whole(checkpoint, world_size=2)
    for other in (1, 3):
        with pytest.raises(CheckpointError, match=r"written with 2 processes|rng_state_2.pth is missing"):
            check_whole(checkpoint, world_size=other)
    empty(checkpoint / "rng_state_1.pth")
    with pytest.raises(CheckpointError, match=r"rng_state_1\.pth is cut short"):
        check_whole(checkpoint, world_size=2)


def test_fp16_needs_its_gradient_scaler(folder):
    checkpoint = folder / "checkpoint-2"
    with pytest.raises(CheckpointError, match=r"scaler\.pt is missing"):
        check_whole(checkpoint, needs_scaler=True)
    torch.save(torch.amp.GradScaler("cpu").state_dict(), checkpoint / "scaler.pt")
    check_whole(checkpoint, needs_scaler=True)
    cut(checkpoint / "scaler.pt")
    # A Trainer whose Accelerator scales gradients asks for it; on a CPU none does by itself.
    trainer = build_trainer(folder)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(CheckpointError, match=r"scaler\.pt is cut short"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_sharded_weights_need_every_shard(folder):
    checkpoint = folder / "checkpoint-2"
    build_model().save_pretrained(checkpoint, max_shard_size="20KB")
    (checkpoint / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(shards) > 1
    check_whole(checkpoint)
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=shards[0].name):
        build_trainer(folder).train(resume_from_checkpoint=str(checkpoint))
    index = checkpoint / "model.safetensors.index.json"
    cut(index)
    with pytest.raises(CheckpointError, match=r"index\.json cannot be read"):
        check_whole(checkpoint)


def test_adapters_need_every_matrix(tmp_path):
    def adapted():
        model = build_model()
        lora = LoraConfig(r=2, target_modules=["query"], modules_to_save=model.modules_outside_backbone)
        return get_peft_model(model, lora)

    build_trainer(tmp_path, adapted(), max_steps=1, save_strategy="steps", save_steps=1).train()
    checkpoint = tmp_path / "checkpoint-1"
    file = checkpoint / "adapter_model.safetensors"
    check_whole(checkpoint)
    tensors = load_file(file)
    lost = next(name for name in tensors if "lora_A" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file)
    with pytest.raises(CheckpointError, match=f"lack {lost}"):
        build_trainer(tmp_path, adapted()).train(resume_from_checkpoint=True)
    cut(file)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors cannot be read"):
        build_trainer(tmp_path, adapted()).train(resume_from_checkpoint=str(checkpoint))
