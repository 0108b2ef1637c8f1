"""Interrupted runs go on as README says, from the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hf_mmalign import FusionForSequenceClassification
from hf_mmalign.cli.main import main
from hf_mmalign.runs import training

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--max_train_samples", "128", "--max_eval_samples", "32", "--disable_tqdm", "true", "--robustness", "false"]
STEPS = ["--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "20"]
STEPS += ["--eval_strategy", "epoch", "--load_best_model_at_end", "false"]


def run(folder: Path, *arguments: str, method: str = "fusion") -> int:
    recipe = str(ROOT / f"recipes/{method}/smoke.yaml")
    return main(["train", recipe, "--output_dir", str(folder), *SMALL, *STEPS, *arguments])


def copy_of(whole: Path, folder: Path, steps: list[int]) -> Path:
    """What a run that was killed after the last of these steps leaves."""
    for step in steps:
        shutil.copytree(whole / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


def evaluations(folder: Path) -> list[dict]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [
        {key: entry[key] for key in ("step", "eval_loss", "eval_accuracy")} for entry in history if "eval_loss" in entry
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Two epochs of four steps, with a checkpoint at each step; the epoch's evaluation comes after its last one."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder) == 0
    return folder


def assert_same_run(one: Path, other: Path) -> None:
    weights = load_file(other / "model.safetensors")
    for name, value in load_file(one / "model.safetensors").items():
        torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=0, msg=name)  # other random numbers: 1e-3
    for entry, expected in zip(evaluations(other), evaluations(one), strict=True):
        assert entry == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("form", ["flag", "bare flag", "key of the recipe", "path"])
def test_the_documented_resume_goes_on(whole, tmp_path, form, capsys):
    out = tmp_path / "out"
    assert run(out, "--max_steps", "3") == 0
    if form == "key of the recipe":
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(f"base: {ROOT / 'recipes/fusion/smoke.yaml'}\nresume_from_checkpoint: true\n")
        assert main(["train", str(recipe), "--output_dir", str(out), *SMALL, *STEPS]) == 0
    else:
        words = {"flag": ["true"], "bare flag": [], "path": [str(out / "checkpoint-3")]}[form]
        assert run(out, "--resume_from_checkpoint", *words) == 0
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 8
    assert len(evaluations(out)) >= 2


@pytest.mark.parametrize("method", ["fusion", "decalign"])
def test_from_a_checkpoint_before_its_epoch_s_evaluation(tmp_path, method):
    assert run(tmp_path / "whole", method=method) == 0
    resumed = copy_of(tmp_path / "whole", tmp_path / "resumed", [4])
    assert run(resumed, "--resume_from_checkpoint", "true", method=method) == 0
    assert_same_run(tmp_path / "whole", resumed)


@pytest.mark.parametrize("step", [3, 8])
def test_from_within_an_epoch_and_from_the_last_step(whole, tmp_path, step):
    resumed = copy_of(whole, tmp_path / "resumed", [step])
    assert run(resumed, "--resume_from_checkpoint", "true") == 0
    assert_same_run(whole, resumed)


def test_strategies_may_be_no(tmp_path):
    assert run(tmp_path, "--eval_strategy", "no", "--save_strategy", "no", "--num_train_epochs", "1") == 0
    assert not list(tmp_path.glob("checkpoint-*"))
    assert evaluations(tmp_path) == []


def test_seconds_are_those_of_all_sessions(whole, tmp_path):
    resumed = copy_of(whole, tmp_path / "resumed", [5])
    state = json.loads((resumed / "checkpoint-5/trainer_state.json").read_text())
    state["stateful_callbacks"]["TrainingClock"]["attributes"]["seconds"] = 1000.0
    (resumed / "checkpoint-5/trainer_state.json").write_text(json.dumps(state))
    assert run(resumed, "--resume_from_checkpoint", "true") == 0
    assert json.loads((resumed / "results.json").read_text())["train"]["seconds"] > 1000


def damage(checkpoint: Path, fault: str) -> None:
    name, _, how = fault.partition(": ")
    file = checkpoint / name
    if how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        weights = load_file(file)
        weights.pop(sorted(weights)[0])
        save_file(weights, file, {"format": "pt"})


FAULTS = [
    "optimizer.pt: cut", "optimizer.pt: empty", "optimizer.pt: missing", "scheduler.pt: missing", "rng_state.pth: missing",
    "rng_state.pth: empty", "model.safetensors: cut", "model.safetensors: missing", "trainer_state.json: cut",
    "model.safetensors: lacks a tensor",
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_that_is_named_is_refused_in_one_line(whole, tmp_path, fault, capsys):
    out = copy_of(whole, tmp_path / "out", [2])
    damage(out / "checkpoint-2", fault)
    capsys.readouterr()
    assert run(out, "--resume_from_checkpoint", str(out / "checkpoint-2")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"hf-mmalign: {out / 'checkpoint-2'} ")
    assert "whole" in error or "to its end" in error
    assert not (out / "results.json").exists()


def test_going_on_from_the_newest_whole_checkpoint_equals_the_whole_run(whole, tmp_path):
    out = copy_of(whole, tmp_path / "out", [2, 5])
    damage(out / "checkpoint-5", "scheduler.pt: missing")
    assert run(out, "--resume_from_checkpoint", "true") == 0
    assert_same_run(whole, out)


def test_a_path_that_is_no_checkpoint_is_refused_before_the_data_are_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "load_data", None)
    assert run(tmp_path, "--resume_from_checkpoint", str(tmp_path / "nowhere")) == 2
    assert "nowhere is no folder" in capsys.readouterr().err


def test_a_full_disk_is_one_clear_line(tmp_path, capsys, monkeypatch):
    def full(*positional, **keywords):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 22")

    monkeypatch.setattr(torch, "save", full)
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/checkpoint-1 could not be written to its end" in error
    assert "MiB are free" in error


def test_a_disk_that_is_full_at_the_end_is_one_clear_line(tmp_path, capsys, monkeypatch):
    def full(*positional, **keywords):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(FusionForSequenceClassification, "save_pretrained", full)
    (tmp_path / "results.json").write_text("{}")  # of a former run
    assert run(tmp_path, "--save_strategy", "no", "--num_train_epochs", "1") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"hf-mmalign: {tmp_path} could not be written to its end")
    assert "No space left on device" in error
    assert not (tmp_path / "results.json").exists()  # it marks a complete folder


def test_a_checkpoint_in_the_folder_is_told_before_heavy_imports(whole, tmp_path):
    out = copy_of(whole, tmp_path / "out", [2])
    code = "import sys; from hf_mmalign.cli.main import main; status = main(sys.argv[1:]); "
    code += "print(status, {'torch', 'transformers', 'datasets'} & set(sys.modules))"
    command = [sys.executable, "-c", code, "train", str(ROOT / "recipes/fusion/smoke.yaml"), "--output_dir", str(out)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "already holds checkpoint-2" in answer.stderr
    assert answer.stdout.strip() == "2 set()"


def test_a_saved_run_finds_its_data_from_any_folder(tmp_path, monkeypatch, capsys):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    write_memes(project / "data")
    elsewhere.mkdir()
    monkeypatch.chdir(project)
    source = ["--dataset", "image-text", "--dataset_path", "data", "--num_train_epochs", "1"]
    for out in ("runs/out", "../elsewhere/out"):
        assert main(["train", str(ROOT / "recipes/wma/smoke.yaml"), "--output_dir", out, *SMALL, *source]) == 0
        monkeypatch.chdir(elsewhere)
        folder = project / out
        assert main(["evaluate", str(folder)]) == 0
        assert main(["evaluate", os.path.relpath(folder)]) == 0
        saved = [path.read_text() for path in (folder / "README.md", folder / "recipe.yaml", folder / "results.json")]
        assert not any(str(tmp_path) in text for text in saved)
        monkeypatch.chdir(project)
    # Moved together, run and data are still found.
    project.rename(tmp_path / "moved")
    monkeypatch.chdir(elsewhere)
    assert main(["evaluate", str(tmp_path / "moved/runs/out")]) == 0
    # The data alone elsewhere: the path is named, and the command line wins.
    (tmp_path / "moved/data").rename(tmp_path / "data")
    assert main(["evaluate", str(tmp_path / "moved/runs/out")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "moved/runs/out"), "--dataset_path", "../data"]) == 0


def write_memes(folder: Path) -> None:
    (folder / "img").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        rows = []
        for index in range(8):
            name = f"img/{split}{index}.png"
            Image.new("RGB", (32, 32), (index * 30, 0, 0)).save(folder / name)
            rows.append(json.dumps({"id": index, "img": name, "text": f"caption number {index}", "label": index % 2}))
        (folder / f"{split}.jsonl").write_text("\n".join(rows))


def test_a_fresh_sweep_warns_of_no_checkpoint(tmp_path, caplog, capsys):
    few = ["--num_train_epochs", "1", "--seed", "0", "--output_dir", str(tmp_path)]
    assert main(["sweep", str(ROOT / "recipes/fusion/smoke.yaml"), *SMALL, *few]) == 0
    assert "checkpoint" not in caplog.text + capsys.readouterr().err
