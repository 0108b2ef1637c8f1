"""Raw sound and further pictures, from a column to a model's inputs."""

import io

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PIL_Image
from torch.testing import assert_close
from transformers import (
    ASTFeatureExtractor,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    TimmWrapperConfig,
    ViTImageProcessor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from hf_mmalign import MultimodalCollator, MultimodalProcessor, load_multimodal_dataset
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.image_processors import load_image_processor, timm_image_processor
from hf_mmalign.data.inspection import inspect_dataset
from hf_mmalign.data.schema import SOUND, modalities_of
from hf_mmalign.data.sounds import to_waveform
from hf_mmalign.data.validation import validate_dataset

RATE = 16000
EXTRACTORS = {
    "wav2vec2": lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "whisper": lambda: WhisperFeatureExtractor(feature_size=8, chunk_length=1),
    "ast": lambda: ASTFeatureExtractor(num_mel_bins=8, max_length=32),
}


def tone(seconds: float = 0.1, rate: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def test_a_sound_in_every_form(tmp_path):
    samples = tone()
    (tmp_path / "a.wav").write_bytes(wav(samples))
    forms = [
        samples, torch.from_numpy(samples), samples.tolist(), str(tmp_path / "a.wav"), tmp_path / "a.wav", wav(samples),
        {"bytes": wav(samples), "path": None}, {"bytes": None, "path": str(tmp_path / "a.wav")},
        {"array": samples, "sampling_rate": RATE}, np.stack([samples, samples]), wav(np.stack([samples, samples], axis=1)),
    ]  # fmt: skip
    for form in forms:
        np.testing.assert_allclose(to_waveform(form, RATE), samples, atol=1e-6)
    slow = to_waveform({"array": tone(rate=8000), "sampling_rate": 8000}, RATE)
    assert np.abs(slow[200:-200] - samples[200:-200]).max() < 0.02
    for bad, message in (
        ("nothing.wav", "cannot be read"),
        (np.full(9, np.nan), "NaN or Inf"),
        (np.zeros((20, 30)), r"\(S,\) samples"),
        (np.zeros(0), "at least one"),
        (b"no sound", "cannot be read"),
        (object(), "a sound is expected"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            to_waveform(bad, RATE, row=3, field="voice")
        assert (caught.value.row, caught.value.field) == (3, "voice")


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_a_batch_of_sounds(kind):
    """Each as the stock extractor makes it alone, and 0 throughout where one is missing."""
    extractor = EXTRACTORS[kind]()
    processor = MultimodalProcessor(modality_processors={"audio": extractor})
    sounds = [tone(0.2), None, {"bytes": wav(tone(0.05)), "path": None}, {"bytes": None, "path": None}]
    batch = processor(audio=sounds)
    name = extractor.model_input_names[0]
    assert set(batch) == {name, "audio_mask"} <= set(processor.model_input_names)
    assert batch["audio_mask"].any(dim=1).tolist() == [True, False, True, False]
    assert not batch[name][1].any()
    for row, samples in ((0, tone(0.2)), (2, tone(0.05))):
        alone = extractor(samples, sampling_rate=RATE, return_tensors="pt")[name][0]
        found = batch[name][row]
        part = found if found.dim() == 2 else found[: len(alone)]
        assert_close(part, alone, atol=1e-5, rtol=1e-4)
        assert kind != "wav2vec2" or not found[len(alone) :].any()
    if kind != "ast":  # which tells no mask
        short, long = batch["audio_mask"][2].sum(), batch["audio_mask"][0].sum()
        assert 0 < short < long
    missing = processor(audio=[None, None])
    assert not missing["audio_mask"].any()


def test_one_processor_for_everything(tmp_path):
    """Two kinds of pictures and two of sounds, saved and loaded; the stock files are where stock classes look."""
    parts = {
        "audio": EXTRACTORS["wav2vec2"](),
        "breath": EXTRACTORS["ast"](),
        "depth": timm_image_processor("test_resnet", size={"height": 16, "width": 16}, do_center_crop=False),
    }
    processor = MultimodalProcessor(
        image_processor=ViTImageProcessor(size={"height": 8, "width": 8}), modality_processors=parts
    )
    picture = PIL_Image.new("RGB", (20, 10), (200, 30, 30))
    inputs = {
        "images": [picture, None],
        "audio": [None, tone()],
        "modality_inputs": {"depth": [None, picture], "breath": [tone(), None]},
        "features": {"gaze": [np.ones((2, 3)), np.ones((1, 3))]},
    }
    batch = processor(**inputs)
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    assert batch["modality_inputs"]["depth"]["pixel_values"].shape == (2, 3, 16, 16)
    assert batch["modality_inputs"]["depth"]["pixel_mask"].flatten(1).any(dim=1).tolist() == [False, True]
    assert batch["modality_inputs"]["breath"]["input_values"].shape == (2, 32, 8)
    processor.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).size["height"] == 8
    assert AutoFeatureExtractor.from_pretrained(tmp_path, subfolder="processor-audio").sampling_rate == RATE
    again = MultimodalProcessor.from_pretrained(tmp_path)
    assert {name: type(part) for name, part in again.modality_processors.items()} == {
        name: type(part) for name, part in parts.items()
    }
    assert_close(again(**inputs).data, batch.data)
    half = again(**inputs).to(torch.bfloat16)
    assert half["modality_inputs"]["depth"]["pixel_values"].dtype == torch.bfloat16
    assert half["modality_inputs"]["depth"]["pixel_mask"].dtype == torch.long
    arrays = again(**inputs, return_tensors="np")
    assert isinstance(arrays["modality_inputs"]["breath"]["input_values"], np.ndarray)
    with pytest.raises(DataError, match=r"field 'smell': the processor has no part for it"):
        again(modality_inputs={"smell": [picture]})
    with pytest.raises(DataError, match="same number of samples"):
        again(images=[picture], audio=[None, tone()])


def test_the_folder_of_a_stock_model_of_sound(tmp_path):
    EXTRACTORS["wav2vec2"]().save_pretrained(tmp_path)
    processor = MultimodalProcessor.from_pretrained(tmp_path)
    assert processor.image_processor is None
    assert processor(audio=tone())["input_values"].shape == (1, 1600)


@pytest.mark.parametrize(("architecture", "size"), [("test_resnet", 160), ("tf_efficientnet_lite0", 224)])
def test_timms_transform_as_a_stock_processor(tmp_path, architecture, size):
    """Up to how Pillow and torchvision interpolate."""
    import timm

    AutoModel.from_config(TimmWrapperConfig(architecture=architecture)).save_pretrained(tmp_path)
    processor = load_image_processor(tmp_path)
    rng = np.random.default_rng(0)
    small = PIL_Image.fromarray(rng.integers(0, 255, (6, 9, 3), dtype=np.uint8))
    picture = small.resize((450, 300), PIL_Image.Resampling.BICUBIC)
    found = processor(picture, return_tensors="pt")["pixel_values"][0]
    settings = timm.data.resolve_data_config(timm.models.get_pretrained_cfg(architecture).to_dict())
    expected = timm.data.create_transform(**settings)(picture)
    assert found.shape == expected.shape == (3, size, size)
    assert (found - expected).abs().mean() < 0.02
    processor.save_pretrained(tmp_path / "again")
    again = AutoImageProcessor.from_pretrained(tmp_path / "again")
    assert_close(again(picture, return_tensors="pt")["pixel_values"][0], found)


def data_of_sounds(column) -> Dataset:
    content = {"bytes": wav(tone(0.2, 8000), 8000), "path": None}
    rows = {"id": ["a", "b"], "audio": [content, None], "depth": [None, None], "label": [0, 1]}
    features = Features({"id": Value("string"), "audio": SOUND, "depth": Image(), "label": Value("int64")})
    return Dataset.from_dict(rows, features).cast_column("audio", column)


@pytest.mark.parametrize("column", [SOUND, Audio(decode=False)], ids=["ours", "datasets"])
def test_columns_of_sounds(column):
    data = data_of_sounds(column)
    assert modalities_of(data) == {"audio": "audio", "depth": "image"}
    parts = {"audio": EXTRACTORS["wav2vec2"](), "depth": ViTImageProcessor(size={"height": 8, "width": 8})}
    collator = MultimodalCollator.from_dataset(MultimodalProcessor(modality_processors=parts), data)
    batch = collator([data[0], data[1]])
    assert batch["audio_mask"].sum(dim=1).tolist() == [3200, 0]  # at 16 kHz
    assert not batch["modality_inputs"]["depth"]["pixel_mask"].any()
    splits = DatasetDict({"train": data})
    described = inspect_dataset(splits)["splits"]["train"]["modalities"]["audio"]
    assert described == {
        "kind": "audio", "missing": 1, "seconds": {"min": 0.2, "mean": 0.2, "max": 0.2}, "sampling_rate": {"8000": 1}
    }  # fmt: skip
    kinds = modalities_of(data)
    validate_dataset(splits, kinds, "single_label_classification", 2, parts)
    broken = Dataset.from_dict(
        {"audio": [{"bytes": b"nothing", "path": None}], "label": [0]},
        Features({"audio": SOUND, "label": Value("int64")}),
    )
    with pytest.raises(DataError, match=r"row 0, field 'train\.audio': the sound cannot be read"):
        validate_dataset(DatasetDict({"train": broken}), {"audio": "audio"}, "single_label_classification", 2)


def test_a_table_leaves_sounds_raw_where_it_is_told(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.wav").write_bytes(wav(tone(0.1 + 0.01 * number)))
    lines = [f"{number}.wav,{number % 2}" for number in range(6)]
    (tmp_path / "sounds.csv").write_text("\n".join(["audio,label", *lines, ",1", ",0"]) + "\n")
    options = {"splits": {"validation": 0.25, "test": 0.25, "seed": 1}, "label": "label"}
    data = load_multimodal_dataset("table", tmp_path / "sounds.csv", audio="raw", **options)
    assert modalities_of(data) == {"audio": "audio"}
    lengths = [
        len(to_waveform(row["audio"], RATE)) for split in data.values() for row in split if row["audio"] is not None
    ]
    assert sorted(lengths) == [1600 + 160 * number for number in range(6)]
    with pytest.raises(DataError, match="'raw', or a dict"):
        load_multimodal_dataset("table", tmp_path / "sounds.csv", audio="wave", **options)
    (tmp_path / "3.wav").write_bytes(b"broken")
    (tmp_path / "again.csv").write_text((tmp_path / "sounds.csv").read_text())
    with pytest.raises(DataError, match=r"again\.csv, row \d, field '\w+\.audio': the sound cannot be read"):
        load_multimodal_dataset("table", tmp_path / "again.csv", audio="raw", **options)
