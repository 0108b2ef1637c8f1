"""The recipes of DEF + AAF on small data in the true formats."""

import json
import pickle

import numpy as np
import pytest

from hf_mmalign.cli.main import main
from hf_mmalign.data.loading import load_multimodal_dataset
from tests.data.readers.test_how2 import write_how2
from tests.data.readers.test_multi30k import write_multi30k
from tests.runs.test_fusion_recipes import PICTURES, QUICK_TRANSLATION, scores

STEPS = ["--max_steps", "4", "--logging_steps", "1", "--disable_tqdm", "true", "--eval_strategy", "no"]
STEPS += ["--save_strategy", "no", "--load_best_model_at_end", "false"]
SMALL = [*STEPS, "--hidden_size", "8", "--latent_size", "8", "--robustness", "false"]


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory):
    """Ten speakers, two of each session, twelve utterances each, with the corpus's names."""
    rng, rows = np.random.RandomState(0), []
    for session, speaker in ((number, letter) for number in range(1, 6) for letter in "FM"):
        rows += [f"Ses{session:02d}F_impro{index:02d}_{speaker}{index:03d}" for index in range(12)]
    content = {}
    for split, ids in (("train", rows[:72]), ("valid", rows[72:96]), ("test", rows[96:])):
        count = len(ids)
        content[split] = {"text": rng.randn(count, 4, 6), "audio": rng.randn(count, 5, 3), "raw_text": ["so"] * count}
        content[split] |= {"vision": rng.randn(count, 3, 4), "id": ids, "classification_labels": np.arange(count) % 6}
    path = tmp_path_factory.mktemp("iemocap") / "iemocap_data.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


def log_of(folder):
    entries = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in entries if "loss" in entry]


def test_iemocap_in_two_stages_against_its_critic(iemocap, tmp_path):
    run = tmp_path / "run"
    where = ["--dataset_path", str(iemocap), "--output_dir", str(run)]
    assert main(["train", "def-aaf/iemocap", *where, *SMALL]) == 0
    first, *_, last = log_of(run)
    assert first["learning_rate"] == pytest.approx(1e-3)
    assert last["learning_rate"] == pytest.approx(5e-4)
    for name in ("text", "audio", "vision"):
        assert f"critic_distance_alignment_{name}" in last
    parts = {name: first[f"loss_{name}"] for name in ("homologous", "contrastive", "class_posterior")}
    parts |= {name: 0.5 * first[f"loss_{name}_reconstruction"] for name in ("intra", "cross")}
    parts["contrastive"] *= 0.6
    assert first["loss"] == pytest.approx(sum(parts.values()), rel=1e-3), "the autoencoder's losses alone"
    assert scores(run) >= {"accuracy", "f1_weighted", "loss_task", "loss_homologous"}


def test_each_fold_of_iemocap_leaves_one_speaker_out(iemocap):
    tested = []
    for fold in range(10):
        dataset = load_multimodal_dataset("iemocap", iemocap, folds=10, fold=fold)
        speakers = {split: set(rows["group"]) for split, rows in dataset.items()}
        assert len(speakers["test"]) == len(speakers["validation"]) == 1
        assert len(speakers["train"]) == 8
        tested += speakers["test"]
    assert set(tested) == {f"Ses{session:02d}{letter}" for session in range(1, 6) for letter in "FM"}


def test_every_ablation_of_iemocap_trains(iemocap, tmp_path):
    told = [*SMALL, "--seed", "0", "--folds", "3", "--num_head_layers", "0"]
    command = ["sweep", "def-aaf/iemocap-ablations", "--dataset_path", str(iemocap), "--output_dir", str(tmp_path)]
    assert main([*command, *told]) == 0
    losses = {path.parts[-4]: scores(path.parent) for path in tmp_path.glob("*/fold=0/seed=0/results.json")}
    assert len(losses) == 8
    assert "loss_contrastive" not in losses["without-contrast"]
    assert "loss_class_posterior" in losses["without-labels"]


@pytest.mark.parametrize("name", ["multi30k-en-de", "how2"])
def test_translations(name, tmp_path):
    told = [*QUICK_TRANSLATION, *STEPS, "--latent_size", "8", "--output_dir", str(tmp_path / "run")]
    if name == "how2":
        data = write_how2(tmp_path / "how2-300h-v1")
    else:
        data = write_multi30k(tmp_path / "multi30k", ("en", "de"))
        told += ["--encoders", json.dumps(PICTURES)]
    assert main(["train", f"def-aaf/{name}", "--dataset_path", str(data), *told]) == 0
    found = scores(tmp_path / "run")
    assert {"bleu", "loss_homologous", "loss_cross_reconstruction"} <= found
    assert "loss_class_posterior" not in found
    assert any(key.startswith("critic_distance") for key in log_of(tmp_path / "run")[-1])


def test_the_smoke_recipe(tmp_path):
    assert main(["train", "def-aaf/smoke", "--output_dir", str(tmp_path), "--robustness", "false"]) == 0
    assert (tmp_path / "model.safetensors").exists()
    assert not list(tmp_path.glob("adversary*"))
    assert "intra_class" not in (tmp_path / "README.md").read_text()


def test_alignment_does_not_make_the_codes_run_away(tmp_path):
    """Held constant in the generator's loss, they drifted until all codes were one, and the contrast stood at chance."""
    told = ["--max_train_samples", "600", "--num_train_epochs", "4", "--learning_rate", "5e-3", "--latent_size", "16"]
    told += ["--robustness", "false", "--fusion", "def_aaf", "--critic_steps", "5", "--critic_learning_rate", "5e-4"]
    assert main(["train", "fusion/smoke", "--output_dir", str(tmp_path), *told]) == 0
    found = json.loads((tmp_path / "results.json").read_text())["validation"]
    assert found["loss_homologous"] < 0.5
    assert found["loss_contrastive"] < 4.0  # log 64 where all codes are one
