"""CAL's recipes on small data in the true formats: every variant of every sweep can be built, and one is run."""

import itertools
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_mmalign.cli.main import main
from hf_mmalign.data.schema import feature_sequence
from hf_mmalign.runs.build import build_config, build_processor, load_data, read_arguments, training_arguments
from hf_mmalign.runs.recipe import load_recipe
from hf_mmalign.runs.sweeps import read_sweep
from tests.data.readers.test_clips import crema_names, write_frames, write_sound
from tests.data.readers.test_digits_av import IMAGES, LABELS, write_idx, write_wav
from tests.data.readers.test_nyu_depth import write as write_scenes
from tests.runs.test_recipe import RECIPES

CAL = [path for path in RECIPES if path.parent.name == "cal" and path.stem != "smoke"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL = {"text": BERT | {"intermediate_size": 32}, "image": {"architecture": "test_resnet"}}
SMALL |= {"depth": SMALL["image"], "audio": SMALL["image"] | {"in_chans": 1}}


def write_clips(folder: Path, lists: dict[str, list[str]]) -> None:
    """Lists of lines that begin with a clip's name, and its sound and frames; in AVE's the name comes second."""
    folder.mkdir()
    for file, lines in lists.items():
        (folder / file).write_text("\n".join(lines), encoding="utf-8")
        for line in lines:
            name = line.split("&")[1] if "&" in line else line.split(",")[0]
            write_sound(folder / "audio" / f"{name}.wav", 1600)
            write_frames(folder / "visual" / name, 1)


def write_features(folder: Path, text: int = 6, image: int = 5) -> None:
    """MVSA-Single as `data extract` leaves it: tokens and patches of widths `text` and `image`."""
    rng = np.random.default_rng(0)
    columns = {"text": feature_sequence(text), "image": feature_sequence(image), "id": Value("string")}
    columns = Features(columns | {"label": ClassLabel(names=["negative", "neutral", "positive"])})
    splits = {}
    for split, count in (("train", 24), ("validation", 12), ("test", 12)):
        rows = {
            "text": [rng.normal(size=(1 + i % 4, text)).astype(np.float32) for i in range(count)],
            "image": [rng.normal(size=(4, image)).astype(np.float32) for _ in range(count)],
            "id": [f"{split}{i}" for i in range(count)],
            "label": [i % 3 for i in range(count)],
        }
        splits[split] = Dataset.from_dict(rows, features=columns)
    DatasetDict(splits).save_to_disk(folder)


def write_digits(folder: Path) -> None:
    """Of three speakers each digit once, and pictures for all of them."""
    (folder / "recordings").mkdir(parents=True)
    draw = np.random.RandomState(0)
    for speaker, digit in itertools.product("abc", range(10)):
        write_wav(folder / "recordings" / f"{digit}_{speaker}_0.wav", draw.randint(-3000, 3000, 800))
    write_idx(folder / IMAGES, draw.randint(0, 256, (200, 28, 28)).astype(np.uint8))
    write_idx(folder / LABELS, (np.arange(200) % 10).astype(np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of each data set, under the name of its reader."""
    root = tmp_path_factory.mktemp("data")
    actors = {"train.csv": range(1001, 1004), "val.csv": range(1004, 1005), "test.csv": range(1005, 1006)}
    emotions = {file: [f"{name},{name.split('_')[2]}" for name in crema_names(of)] for file, of in actors.items()}
    write_clips(root / "crema-d", emotions)
    files = {"trainSet.txt": 4, "valSet.txt": 2, "testSet.txt": 2}
    events = {file: [f"{'AB'[i % 2]}&{file[:2]}{i}&good&0&10" for i in range(count)] for file, count in files.items()}
    write_clips(root / "ave", events)
    actions = {f"my_{part}.txt": [f"{part}{i},10,{i % 2}" for i in range(20)] for part in ("train", "test")}
    write_clips(root / "kinetics-sounds", actions)
    write_scenes(root / "nyu-depth", "halves")
    tweets = root / "mvsa-single" / "data"
    tweets.mkdir(parents=True)
    lines = ["ID\ttext,image"]
    for index in range(30):
        lines.append(f"{index}\t{('positive,positive', 'neutral,neutral', 'negative,negative')[index % 3]}")
        (tweets / f"{index}.txt").write_text(f"tweet number {index}")
        PIL.Image.new("RGB", (20, 20), (8 * index, 0, 0)).save(tweets / f"{index}.jpg")
    (tweets.parent / "labelResultAll.txt").write_text("\n".join(lines))
    write_features(root / "table")
    write_digits(root / "digits-av")
    return {folder.name: folder for folder in root.iterdir()}


@pytest.mark.parametrize("path", CAL, ids=lambda path: path.stem)
def test_every_variant_can_be_built(path, folders, tmp_path):
    recipe = load_recipe(path)
    where = {"dataset_path": str(folders[recipe.values["dataset"]]), "output_dir": str(tmp_path)}
    for variant in read_sweep(recipe, where).variants:
        encoders = variant.recipe.values.get("encoders", {})
        # What a hub would have to bring stays outside.
        offline = {name: SMALL[name] if isinstance(value, str) else value for name, value in encoders.items()}
        told = {"encoders": offline} if offline else {}
        arguments = read_arguments(variant.recipe.override(told, "the test"))
        dataset = load_data(arguments.data)
        config = build_config(arguments, dataset, build_processor(arguments, dataset))
        assert list(config.encoders) == list(encoders)
        assert set(config.modalities) == set(encoders or ("text", "image"))
        settings = training_arguments(arguments)
        assert settings.per_device_train_batch_size == 64
        assert settings.metric_for_best_model == "accuracy"


def test_a_run_of_two_encoders_with_every_noise(folders, tmp_path):
    """Sound as log-mel frames and pictures, each through a network of timm's, as `crema-d` has it."""
    small = {name: SMALL[name] for name in ("audio", "image")}
    told = ["--encoders", json.dumps(small), "--num_train_epochs", "1", "--picture_steps", "{audio: 32}"]
    noise = ["--train_noise", "{protocol: qmf, kind: gaussian, epsilon: 5}", "--protocol", "qmf", "--epsilons", "10"]
    noise += ["--snrs", "0", "--robustness_seeds", "0"]
    recipe = next(str(path) for path in CAL if path.stem == "crema-d")
    data = ["--dataset_path", str(folders["crema-d"]), "--output_dir", str(tmp_path), "--disable_tqdm", "true"]
    assert main(["train", recipe, *data, *told, *noise]) == 0
    table = (tmp_path / "robustness.md").read_text()
    for row in ("audio gaussian ε=10", "image salt-pepper ε=10", "all gaussian ε=10", "audio white-noise 0 dB"):
        assert row in table
    assert main(["evaluate", str(tmp_path)]) == 0
