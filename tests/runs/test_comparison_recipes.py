"""The comparison's recipes on small data in the true formats: every variant trains and is measured."""

import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest

from hf_mmalign.cli.main import main
from hf_mmalign.evaluation.scores import Condition
from hf_mmalign.runs.build import read_arguments
from hf_mmalign.runs.recipe import load_recipe
from hf_mmalign.runs.sweeps import read_sweep
from hf_mmalign.runs.training import train
from tests.runs.test_cal_recipes import write_digits, write_features

METHODS = ("late-fusion", "auto", "gan", "def-aaf", "cal", "ogm", "one-tower", "wma", "minimise-ot", "decalign")
METHODS += ("decalign-common",)
NAMES = ("ravdess", "mvsa-single", "digits-av")
QUICK = {"max_steps": 2, "disable_tqdm": True, "report_to": "none", "robustness_seeds": [0], "logging_steps": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("comparison")
    rng = np.random.RandomState(0)
    names = [f"01-01-{emotion:02d}-01-01-01-{actor:02d}" for actor in range(1, 25) for emotion in range(1, 9)]
    (folder / "au_mfcc.pkl").write_bytes(pickle.dumps({name: rng.randn(294) for name in names}))
    write_features(folder / "features")
    write_digits(folder / "digits")
    return {"ravdess": folder / "au_mfcc.pkl", "mvsa-single": folder / "features", "digits-av": folder / "digits"}


def variants_of(name: str, path: Path):
    told = {"dataset_path": str(path)} | ({"noisy_copies": [[]]} if name == "mvsa-single" else {})
    return {one.name: one for one in read_sweep(load_recipe(f"comparison/{name}"), told).variants}


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_the_same_budget_with_and_without_modality_dropout(name, data):
    found = variants_of(name, data[name])
    assert set(found) == {f"{method}{suffix}" for method in METHODS for suffix in ("", "-dropout")}
    budgets, measured = set(), set()
    for variant in found.values():
        rates = []
        for cell in variant.cells:
            arguments = read_arguments(variant.recipe.override(dict(cell.values), "the test"))
            dropped = 0.3 if variant.name.endswith("-dropout") else None
            assert arguments.training.get("modality_dropout") == dropped
            rates.append(arguments.training["learning_rate"])
            told = vars(arguments.evaluation)
            measured.add(tuple(str(told[key]) for key in ("noise", "noise_amplitude", "noise_unit", "missing_mode")))
        epochs, size = (variant.recipe.values[key] for key in ("num_train_epochs", "per_device_train_batch_size"))
        budgets.add((tuple(map(float, rates)), epochs, size))
    assert len(budgets) == 1
    assert measured == {("gaussian", "1.0", "std", "mask")}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains(name, method, data, tmp_path):
    variant = variants_of(name, data[name])[f"{method}-dropout"]
    run = train(variant.recipe.override(dict(variant.cells[0].values) | QUICK, "the test"), output_dir=str(tmp_path))
    assert np.isfinite(run.results["test"]["loss"])
    modalities = run.model.config.modalities
    for modality in modalities:
        assert Condition("missing", modality, 1.0) in run.report.scores
        assert Condition("noise", modality, 1.0) in run.report.scores


def test_headroom(data, tmp_path):
    """Variants of one modality alone have no robustness, and stand in the table of scores only."""
    told = [
        "--dataset_path",
        str(data["mvsa-single"]),
        "--output_dir",
        str(tmp_path),
        "--max_steps",
        "1",
        "--seed",
        "0",
    ]
    copy = datasets.load_from_disk(str(data["mvsa-single"]))["test"]
    datasets.DatasetDict({"test": copy}).save_to_disk(tmp_path / "copy")
    noise = {"protocol": "qmf", "kind": "gaussian", "epsilon": 5, "modalities": ["text", "image"], "seed": 0}
    (tmp_path / "copy/extraction.json").write_text(json.dumps({"noise": noise}))
    quick = ["--disable_tqdm", "true", "--noisy_copies", json.dumps([[str(tmp_path / "copy")]]), "--logging_steps", "1"]
    assert main(["sweep", "comparison/mvsa-single-headroom", *told, *quick]) == 0
    scores, disturbed = (tmp_path / "sweep.md").read_text(encoding="utf-8").split("## Robustness on the test split")
    assert "| image  " in scores
    assert "| one-tower " in disturbed
    assert "image missing" in disturbed
    assert "all gaussian" in disturbed
    assert "| image  " not in disturbed.split("## Grid")[0]
    run = next((tmp_path / "one-tower").glob("*/seed=0"))
    assert main(["plot", "training", str(run)]) == 0


def test_the_command(data, tmp_path):
    told = ["--dataset_path", str(data["ravdess"]), "--output_dir", str(tmp_path), "--max_steps", "1"]
    told += ["--disable_tqdm", "true", "--folds", "3", "--robustness", "false"]
    text = (Path(load_recipe("comparison/ravdess").path)).read_text(encoding="utf-8")
    few = text[: text.index("    auto:")] + text[text.index("    wma:") : text.index("    wma-dropout:")]
    base = Path(load_recipe("comparison/ravdess").path).parent
    (tmp_path / "few.yaml").write_text(few.replace("base: ravdess", f"base: {base}/ravdess"), encoding="utf-8")
    assert main(["sweep", str(tmp_path / "few.yaml"), *told]) == 0
    assert "| difference to late-fusion, n = 3 |" in (tmp_path / "sweep.md").read_text(encoding="utf-8")
