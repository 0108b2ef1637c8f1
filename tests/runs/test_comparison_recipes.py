"""The comparison's recipes on small data in the true formats: every variant trains and is measured."""

import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Value
from PIL import Image
from transformers import ViltConfig, ViltImageProcessor, ViltModel

from hf_mmalign.cli.main import main
from hf_mmalign.data.processor import train_tokenizer
from hf_mmalign.data.schema import SPLITS, feature_sequence
from hf_mmalign.evaluation.scores import Condition
from hf_mmalign.runs.build import read_arguments
from hf_mmalign.runs.recipe import load_recipe
from hf_mmalign.runs.sweeps import read_sweep
from hf_mmalign.runs.training import train
from tests.runs.test_cal_recipes import write_digits, write_features

METHODS = ("late-fusion", "auto", "gan", "def-aaf", "cal", "ogm", "one-tower", "wma", "minimise-ot", "decalign")
METHODS += ("decalign-common",)
NAMES = ("ravdess", "mvsa-single", "digits-av", "easy-vqa")
QUICK = {"max_steps": 2, "disable_tqdm": True, "report_to": "none", "robustness_seeds": [0], "logging_steps": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("comparison")
    rng = np.random.RandomState(0)
    names = [f"01-01-{emotion:02d}-01-01-01-{actor:02d}" for actor in range(1, 25) for emotion in range(1, 9)]
    (folder / "au_mfcc.pkl").write_bytes(pickle.dumps({name: rng.randn(294) for name in names}))
    write_features(folder / "features")
    write_digits(folder / "digits")
    write_easy_vqa(folder / "easy-vqa")
    paths = {"ravdess": "au_mfcc.pkl", "mvsa-single": "features", "digits-av": "digits", "easy-vqa": "easy-vqa"}
    return {name: folder / path for name, path in paths.items()}


def write_easy_vqa(folder: Path) -> None:
    """Where the recipes on it are run: the data, its patches, and a ViLT; all of them small and meaningless."""
    draw, answers = np.random.RandomState(0), ["yes", "no", "red"]
    for part in ("train", "test"):
        (folder / "data/easy-vqa" / part / "images").mkdir(parents=True)
        questions = [["is there a red shape?", answers[index % 3], index] for index in range(10)]
        (folder / "data/easy-vqa" / part / "questions.json").write_text(json.dumps(questions))
        for picture in range(10):
            pixels = draw.randint(0, 256, (64, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "data/easy-vqa" / part / "images" / f"{picture}.png")
    (folder / "data/easy-vqa/answers.txt").write_text("\n".join(answers))
    columns = {"id": Value("string"), "text": Value("string"), "image": feature_sequence(8)}
    rows = {"id": [], "text": [], "image": [], "label": []}
    for index in range(10):
        rows["id"].append(str(index))
        rows["text"].append("is there a red shape?")
        rows["image"].append(draw.randn(16, 8).astype(np.float32))
        rows["label"].append(index % 3)
    features = datasets.Features(columns | {"label": datasets.ClassLabel(names=answers)})
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(dict.fromkeys(SPLITS, split)).save_to_disk(folder / "easy-vqa-patches")
    tokenizer = train_tokenizer(rows["text"], 60)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViltConfig(**sizes, image_size=64, patch_size=16, vocab_size=len(tokenizer))
    for part in (ViltModel(config), tokenizer, ViltImageProcessor(do_resize=False, size_divisor=16)):
        part.save_pretrained(folder / "encoders/vilt-easy-vqa")


def variants_of(name: str, path: Path):
    told = {} if name == "easy-vqa" else {"dataset_path": str(path)}
    told |= {"noisy_copies": [[]]} if name == "mvsa-single" else {}
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
def test_every_method_trains(name, method, data, tmp_path, monkeypatch):
    if name == "easy-vqa":  # whose recipes have relative paths
        monkeypatch.chdir(data[name])
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
