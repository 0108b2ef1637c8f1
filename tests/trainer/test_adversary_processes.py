"""Training against critics in several processes and compiled: model and critics together."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.test_trainer import assert_same_weights, run_script, train_log
from tests.trainer.training import build_fusion, build_trainer, weights

GAN = {"fusion": "gan", "latent_size": 8, "dropout": 0.0}
# No term depends on more than a sample, and nothing is drawn: a process with half of the rows has half of the sums.
AAF = {"fusion": "def_aaf", "latent_size": 8, "class_dropout": 0.0, "dropout": 0.0}
AAF |= {"contrastive_weight": 0.0, "gradient_penalty": 0.0}
EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "critic_steps": 2}
SCRIPT = ("-m", "tests.trainer.training")
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def critics_of(checkpoint) -> dict[str, torch.Tensor]:
    return {
        name: tensor for name, tensor in load_file(checkpoint / "adversary.safetensors").items() if "critics" in name
    }


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(tmp_path):
    arguments = EVERY_STEP | {"optim": "sgd"}
    split = {"per_device_train_batch_size": 2, "ddp_backend": "gloo"}
    run_script(
        *TWO, *SCRIPT, str(tmp_path / "two"), "--model", "fusion", "--complete", "--fields", json.dumps(AAF),
        "--arguments", json.dumps(arguments | split),
    )  # fmt: skip
    single = build_trainer(tmp_path / "one", build_fusion(**AAF), complete=True, **arguments)
    single.train()
    two = load_file(tmp_path / "two" / "final.safetensors")
    assert_same_weights(two, weights(single.model), atol=5e-6, rtol=1e-4)
    one, other = (critics_of(tmp_path / name / "checkpoint-4") for name in ("one", "two"))
    # Adam divides a gradient by its own size: where that is tiny, rounding shows.
    assert_same_weights(one, other, atol=1e-4, rtol=1e-3)
    log = [entry for entry in json.loads((tmp_path / "two" / "log.json").read_text()) if "loss" in entry]
    for mine, theirs in zip(log, train_log(single), strict=True):
        names = [name for name in mine if name.startswith(("loss", "critic"))]
        assert {n: mine[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_processes_whose_batches_miss_a_modality_go_on_together_and_are_resumed(tmp_path):
    """Two processes with a sample each, some without audio: batch norms, critics and logs have next to nothing."""
    split = {"per_device_train_batch_size": 1, "ddp_backend": "gloo", "bf16": True}
    script = (*TWO, *SCRIPT)
    told = ("--model", "fusion", "--fields", json.dumps(GAN), "--arguments", json.dumps(EVERY_STEP | split))
    run_script(*script, str(tmp_path / "whole"), *told)
    log = [entry for entry in json.loads((tmp_path / "whole" / "log.json").read_text()) if "loss" in entry]
    assert len(log) == 4
    assert len({frozenset(entry) for entry in log}) == 1, "the same terms in every step"
    assert all(torch.tensor(value).isfinite() for entry in log for value in entry.values())
    first = tmp_path / "again" / "checkpoint-2"
    first.parent.mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(first)
    run_script(*script, str(tmp_path / "again"), *told, "--resume")
    whole, again = (load_file(tmp_path / name / "final.safetensors") for name in ("whole", "again"))
    assert_same_weights(again, whole, atol=1e-6, rtol=0)
    assert_same_weights(
        critics_of(tmp_path / "again" / "checkpoint-4"),
        critics_of(tmp_path / "whole" / "checkpoint-4"),
        atol=1e-6,
        rtol=0,
    )


def test_compiled_training_is_the_eager_one(tmp_path):
    torch._dynamo.reset()
    runs = []
    for compiled in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        trainer = build_trainer(tmp_path, build_fusion(**GAN), max_steps=3, **compiled)
        trainer.train()
        runs.append(trainer)
    eager, compiled = runs
    for expected, logged in zip(train_log(eager), train_log(compiled), strict=True):
        assert logged == pytest.approx(expected, rel=1e-3, abs=1e-5, nan_ok=True)
    assert_same_weights(weights(compiled.multimodal_model), weights(eager.multimodal_model), atol=1e-3, rtol=1e-3)
