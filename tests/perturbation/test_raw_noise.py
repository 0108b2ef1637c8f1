"""Noise on pictures, numbers and words, and the protocols that apply it."""

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch

from hf_mmalign.data.feature_statistics import FeatureStatistics
from hf_mmalign.perturbation.protocols import NoiseProtocol, WhiteNoise
from hf_mmalign.perturbation.raw_noise import (
    drop_words,
    gaussian_pixels,
    noise_at_snr,
    published_gaussian_pixels,
    replace_words,
    salt_and_pepper_pixels,
    salt_and_pepper_values,
)

KINDS = {"text": "text", "image": "image", "audio": 3}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def photo(height: int = 300, width: int = 260, seed: int = 0) -> PIL.Image.Image:
    coarse = rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((width, height))


def row(seed: int = 0) -> dict:
    audio = rng(seed).normal(size=(7, 3)).astype(np.float32)
    return {"id": "a", "text": "one two three four five", "image": photo(), "audio": audio, "label": 1}


def first(protocol: NoiseProtocol, kind: str, epsilon: float, modality: str, sample: dict) -> tuple[int, object]:
    """The first index whose sample the draw disturbs, and the cell it becomes."""
    for index in range(200):
        noisy = protocol.disturb(sample, {modality: KINDS[modality]}, kind, epsilon, index)
        if noisy is not None:
            return index, noisy[modality]
    raise AssertionError("no sample of 200 was disturbed")


def test_gaussian_noise_has_its_standard_deviation_and_one_value_for_the_three_channels():
    pixels = np.full((200, 200, 3), 128, np.uint8)
    difference = gaussian_pixels(pixels, 20.0, rng()).astype(float) - 128
    assert difference.std() == pytest.approx(20, rel=0.02)
    assert abs(difference.mean()) < 0.5
    assert (difference == difference[:, :, :1]).all()
    bright = gaussian_pixels(np.full((50, 50, 3), 250, np.uint8), 50.0, rng())
    dark = gaussian_pixels(np.full((50, 50, 3), 5, np.uint8), 50.0, rng())
    assert (bright == 255).mean() > 0.3  # clipped at both ends
    assert (dark == 0).mean() > 0.3
    assert dark.max() < 250


def test_published_gaussian_noise_is_the_same_in_every_picture_and_wraps_below_zero():
    grey, dark = np.full((40, 30, 3), 128, np.uint8), np.full((40, 30, 3), 3, np.uint8)
    np.random.seed(0)
    noise = np.random.normal(0.0, 50.0, (40, 30, 1))
    for pixels in (grey, dark):
        expected = np.minimum(noise + pixels, 255)
        expected = np.trunc(expected) % 256  # what astype("uint8") makes of negative numbers on common processors
        np.testing.assert_array_equal(published_gaussian_pixels(pixels, 50.0), expected)
    assert (published_gaussian_pixels(dark, 50.0) > 200).mean() > 0.2


def test_salt_and_pepper_fall_on_their_share_of_whole_pixels():
    pixels = np.full((300, 300, 3), 100, np.uint8)
    noisy = salt_and_pepper_pixels(pixels, 0.1, rng())
    assert (noisy == noisy[:, :, :1]).all()
    assert (noisy[:, :, 0] == 0).mean() == pytest.approx(0.05, abs=0.004)
    assert (noisy[:, :, 0] == 255).mean() == pytest.approx(0.05, abs=0.004)
    values = rng().normal(size=(300, 300))
    noisy = salt_and_pepper_values(values, 0.1, rng(1))
    assert (noisy == np.float32(values.min())).mean() == pytest.approx(0.05, abs=0.004)
    assert (noisy == np.float32(values.max())).mean() == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 6.0, 20.0])
@pytest.mark.parametrize("shape", [(16000,), (200, 64)])
def test_noise_has_the_signal_to_noise_ratio_it_is_told(snr, shape):
    signal = 3 * rng().normal(size=shape) - 20  # an offset, as log-mel frames have, is no signal
    noise = noise_at_snr(signal, snr, rng(1)) - signal.astype(np.float32)
    assert 10 * np.log10(signal.var() / noise.var()) == pytest.approx(snr, abs=0.2)
    assert noise_at_snr(signal, snr, rng(1)).dtype == np.float32
    np.testing.assert_array_equal(noise_at_snr(np.full((4, 2), 7.0), snr, rng()), np.full((4, 2), 7.0, np.float32))
    assert noise_at_snr(np.zeros((0, 3)), snr, rng()).shape == (0, 3)


def test_words_are_replaced_or_dropped_with_their_probability():
    text = " ".join(["word"] * 5000)
    assert replace_words(text, 0.3, rng()).split(" ").count("_") / 5000 == pytest.approx(0.3, abs=0.03)
    assert len(drop_words(text, 0.3, rng()).split(" ")) / 5000 == pytest.approx(0.7, abs=0.03)
    others = replace_words(text, 1.0, rng(), words=("red", "green")).split(" ")
    assert set(others) == {"red", "green"}
    assert drop_words("all gone", 1.0, rng()) == ""
    assert replace_words("a  b", 0.0, rng()) == "a  b"
    # More noise disturbs what less did, and more.
    weak, strong = (replace_words(text, p, rng(3)).split(" ") for p in (0.2, 0.6))
    assert all(there == "_" for here, there in zip(weak, strong, strict=True) if here == "_")


@pytest.mark.parametrize("name", ["qmf", "clean"])
@pytest.mark.parametrize(("kind", "modality", "shares"), [
    ("gaussian", "image", {5: 0.5, 10: 0.5}),
    ("salt-pepper", "image", {5: 0.25, 10: 0.5}),
    ("gaussian", "audio", {5: 0.5, 10: 0.5}),
    ("words-replaced", "text", {5: 0.5 * (1 - 0.5**5), 10: 0.5}),
])  # fmt: skip
def test_half_of_the_samples_and_salt_with_a_further_probability(name, kind, modality, shares):
    protocol, small = NoiseProtocol(name), row() | {"image": photo(16, 16)}
    for epsilon, share in shares.items():
        count = 0
        for index in range(600):
            noisy = protocol.disturb(small, {modality: KINDS[modality]}, kind, epsilon, index)
            count += noisy is not None and not (modality == "text" and noisy["text"] == small["text"])
        assert count / 600 == pytest.approx(share, abs=0.08)


def test_the_published_protocol_to_the_letter_at_its_picture_size():
    sample = row()
    _, noisy = first(NoiseProtocol("qmf"), "gaussian", 5.0, "image", sample)
    resized = sample["image"].resize((256, int(256 * 300 / 260)), PIL.Image.Resampling.BILINEAR)
    np.random.seed(0)
    expected = np.minimum(np.random.normal(0, 50, (resized.height, resized.width, 1)) + np.asarray(resized), 255)
    np.testing.assert_array_equal(np.asarray(noisy), np.trunc(expected) % 256)
    _, noisy = first(NoiseProtocol("qmf", "nyud2"), "gaussian", 5.0, "image", sample)
    resized = sample["image"].resize((256, 256), PIL.Image.Resampling.BICUBIC)
    resized = resized.resize((224, 224), PIL.Image.Resampling.BILINEAR)
    np.random.seed(0)
    expected = np.minimum(np.random.normal(0, 5, (224, 224, 1)) + np.asarray(resized), 255)
    np.testing.assert_array_equal(np.asarray(noisy), np.trunc(expected) % 256)
    assert first(NoiseProtocol("qmf"), "words-replaced", 10.0, "text", sample)[1] == "_ _ _ _ _"


def test_the_clean_protocol_draws_for_each_sample_and_does_not_enlarge():
    sample = row() | {"image": photo(100, 80)}
    protocol = NoiseProtocol("clean")
    pictures = [protocol.disturb(sample, {"image": "image"}, "gaussian", 5.0, index) for index in range(20)]
    pictures = [np.asarray(noisy["image"]).astype(int) for noisy in pictures if noisy]
    assert len(pictures) > 3
    assert pictures[0].shape == (100, 80, 3)
    assert np.abs(pictures[0] - pictures[1]).mean() > 10
    assert first(protocol, "gaussian", 5.0, "image", row())[1].size == (256, 295)
    assert first(protocol, "words-dropped", 10.0, "text", sample)[1] == ""


def test_noise_is_a_function_of_seed_epoch_sample_kind_and_modality():
    protocol, sample = NoiseProtocol("clean"), row()
    index, once = first(protocol, "gaussian", 5.0, "audio", sample)
    draw = lambda **other: protocol.disturb(  # noqa: E731
        sample, {"audio": 3}, "gaussian", 5.0, **{"index": index} | other
    )
    np.testing.assert_array_equal(draw()["audio"], once)
    for other in ({"seed": 1}, {"epoch": 1}, {"index": index + 1}):
        noisy = draw(**other)
        assert noisy is None or np.abs(noisy["audio"] - once).max() > 0
    # Twice the strength is twice the same noise.
    strong = protocol.disturb(sample, {"audio": 3}, "gaussian", 10.0, index)["audio"]
    np.testing.assert_allclose(strong - sample["audio"], 2 * (once - sample["audio"]), atol=1e-5)
    # What is put on all modalities at once is what each gets alone, texts by words replaced.
    for index in range(20):
        together = protocol.disturb(sample, KINDS, "salt-pepper", 5.0, index) or sample
        for name, of in KINDS.items():
            kind = "words-replaced" if name == "text" else "salt-pepper"
            alone = protocol.disturb(sample, {name: of}, kind, 5.0, index) or sample
            np.testing.assert_array_equal(np.asarray(together[name]), np.asarray(alone[name]))


def test_a_signal_to_noise_ratio_of_zero_decibels_at_ten():
    sample = row() | {"audio": rng().normal(size=(500, 3)) * 5}
    _, noisy = first(NoiseProtocol("clean"), "gaussian", 10.0, "audio", sample)
    assert (noisy - sample["audio"]).std() == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("form", ["path", "array", "grey", "tensor", "alpha"])
def test_a_picture_in_any_form_that_processors_take(form, tmp_path):
    picture, sample = photo(64, 48), {}
    picture.save(tmp_path / "photo.png")
    sample["image"] = {
        "path": str(tmp_path / "photo.png"),
        "array": np.asarray(picture),
        "grey": np.asarray(picture.convert("L")),
        "tensor": torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1),
        "alpha": picture.convert("RGBA"),
    }[form]
    protocol = NoiseProtocol("clean")
    index, noisy = first(protocol, "gaussian", 5.0, "image", sample)
    plain = picture.convert("L").convert("RGB") if form == "grey" else picture
    expected = protocol.disturb({"image": plain}, {"image": "image"}, "gaussian", 5.0, index)["image"]
    np.testing.assert_array_equal(np.asarray(noisy), np.asarray(expected))


def test_what_is_missing_stays_missing_and_the_rest_of_the_row_stays():
    protocol = NoiseProtocol("qmf")
    empty = {"text": None, "image": float("nan"), "audio": np.zeros((0, 3), np.float32), "label": 1}
    assert all(protocol.disturb(empty, KINDS, kind, 10.0, i) is None for kind in ("gaussian",) for i in range(20))
    assert protocol.disturb(row(), KINDS, "gaussian", 0.0, 0) is None
    index, _ = first(protocol, "words-replaced", 10.0, "text", row())
    sample = row()
    noisy = protocol.disturb(sample, KINDS, "words-replaced", 10.0, index)
    assert noisy["image"] is sample["image"]
    assert noisy["label"] == 1
    assert sample["text"] == "one two three four five"


def test_numbers_come_back_in_their_form():
    index, _ = first(NoiseProtocol("clean"), "gaussian", 5.0, "audio", row())
    for values in (torch.arange(6.0).reshape(2, 3), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], torch.arange(6.0)):
        noisy = NoiseProtocol("clean").disturb({"audio": values}, {"audio": 3}, "gaussian", 5.0, index)["audio"]
        assert isinstance(noisy, torch.Tensor if isinstance(values, torch.Tensor) else np.ndarray)
        assert np.shape(noisy) == np.shape(values)


@pytest.mark.parametrize("form", ["path", "bytes", "file", "content", "array", "decoded", "decoder"])
def test_a_sound_in_any_form_that_processors_take(form, tmp_path):
    samples = (0.3 * rng().standard_normal(4000)).clip(-1, 1).astype(np.float32)
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.stack([samples, samples], axis=1), 8000, subtype="FLOAT")
    sound = {
        "path": str(path),
        "bytes": path.read_bytes(),
        "file": {"path": str(path), "bytes": None},
        "content": {"path": "sound.wav", "bytes": path.read_bytes()},
        "array": samples,
        "decoded": {"array": samples, "sampling_rate": 8000, "path": str(path)},
        "decoder": SimpleNamespace(
            get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(np.stack([samples] * 2)), sample_rate=8000)
        ),
    }[form]
    protocol, kinds = NoiseProtocol("clean"), {"speech": "audio"}
    index = next(i for i in range(50) if protocol.disturb({"speech": samples}, kinds, "gaussian", 10.0, i))
    expected = protocol.disturb({"speech": samples}, kinds, "gaussian", 10.0, index)["speech"]
    noisy = protocol.disturb({"speech": sound}, kinds, "gaussian", 10.0, index)["speech"]
    if form != "array":
        assert noisy["sampling_rate"] == 8000
        noisy = noisy["array"]
    np.testing.assert_allclose(noisy, expected, atol=1e-6)
    assert (noisy - samples).std() == pytest.approx(samples.std(), rel=0.05)  # 0 dB
    assert protocol.disturb({"speech": {"path": None, "bytes": None}}, kinds, "gaussian", 10.0, index) is None


def test_a_damaged_sound_is_an_error_that_names_it():
    protocol, kinds = NoiseProtocol("clean"), {"speech": "audio"}
    sound = np.ones(10, np.float32)
    index = next(i for i in range(50) if protocol.disturb({"speech": sound}, kinds, "gaussian", 5.0, i))
    with pytest.raises(ValueError, match=f"Noise on 'speech' of sample {index} is not possible"):
        protocol.disturb({"speech": b"RIFF"}, kinds, "gaussian", 5.0, index)


@pytest.mark.parametrize(("cell", "message"), [
    ({"text": 3}, "Noise on 'text' of sample 0 is not possible: a text is expected, not int"),
    ({"image": np.zeros((4, 4, 3))}, "'image' of sample 0 is not possible: a picture of type uint8"),
    ({"image": "nowhere.png"}, "'image' of sample 0.*nowhere.png"),
    ({"audio": ["a", "b"]}, "'audio' of sample 0 is not possible: numbers are expected"),
])  # fmt: skip
def test_a_cell_of_another_kind_is_an_error_that_names_it(cell, message):
    (name,) = cell
    kind = "words-replaced" if name == "text" else "gaussian"
    protocol, kinds = NoiseProtocol("qmf"), {name: KINDS[name]}
    drawn = next(seed for seed in range(50) if protocol.disturb(row(), kinds, kind, 5.0, 0, seed))
    with pytest.raises(ValueError, match=message):
        protocol.disturb(cell, kinds, kind, 5.0, 0, drawn)


@pytest.mark.parametrize("snr", [-3.0, 0, 20.0])
def test_white_noise_on_every_sample_at_its_ratio(snr):
    sample = row() | {"audio": rng().normal(size=(4000, 3)) * 5 - 30, "speech": rng(1).normal(size=4000)}
    noise, kinds = WhiteNoise(snr), KINDS | {"speech": "audio"}
    for index in range(5):
        noisy = noise.disturb(sample, kinds, index)
        assert noisy["text"] is sample["text"]
        assert noisy["image"] is sample["image"]
        for name in ("audio", "speech"):
            ratio = sample[name].var() / (noisy[name] - sample[name]).var()
            assert 10 * np.log10(ratio) == pytest.approx(snr, abs=0.3)
    again, other = noise.disturb(sample, kinds, 4), noise.disturb(sample, kinds, 4, epoch=1)
    np.testing.assert_array_equal(again["audio"], noisy["audio"])
    assert np.abs(other["audio"] - noisy["audio"]).max() > 0
    assert noise.disturb({"text": "a", "audio": None}, {"text": "text", "audio": 3}, 0) is None


def test_noise_on_features_that_are_normalised_is_white_in_what_the_model_reads():
    scale, offset = np.array([1e-6, 1.0, 1e4], np.float32), np.array([0.0, -5.0, 1e5], np.float32)
    normalised = rng(0).normal(size=(400, 3)).astype(np.float32)
    fitted = FeatureStatistics(torch.from_numpy(offset), torch.from_numpy(scale))
    row = {"audio": normalised * scale + offset, "face": normalised}
    noise = WhiteNoise(6.0, statistics={"audio": fitted})
    noisy = noise.disturb(row, {"audio": 3, "face": 3}, 1)
    difference = (noisy["audio"].astype(np.float64) - row["audio"]) / scale
    assert 10 * np.log10(normalised.var() / difference.var(axis=0)) == pytest.approx([6.0] * 3, abs=0.6)
    np.testing.assert_array_equal(noisy["face"], WhiteNoise(6.0).disturb(row, {"face": 3}, 1)["face"])
    raw = (WhiteNoise(6.0).disturb(row, {"audio": 3}, 1)["audio"].astype(np.float64) - row["audio"]) / scale
    assert raw.std(axis=0)[0] > 1e6, "which the ratio of raw features of such scales would be"


def test_white_noise_on_a_share_of_the_samples_of_each_modality():
    row = {"audio": np.arange(12.0).reshape(4, 3), "face": np.arange(12.0).reshape(4, 3)}
    kinds, found = {"audio": 3, "face": 3}, []
    for index in range(400):
        noisy = WhiteNoise(0.0, share=0.25).disturb(row, kinds, index)
        found.append([noisy is not None and bool((noisy[name] != row[name]).any()) for name in kinds])
    found = np.array(found)
    # Four standard deviations of a binomial count.
    assert found.mean(axis=0) == pytest.approx([0.25, 0.25], abs=4 * np.sqrt(0.25 * 0.75 / 400))
    assert found.all(axis=1).mean() == pytest.approx(0.0625, abs=4 * np.sqrt(0.0625 * 0.9375 / 400))
    with pytest.raises(ValueError, match="between 0 and 1, not 2"):
        WhiteNoise(0.0, share=2)


@pytest.mark.parametrize("snr", [np.inf, "10", True])
def test_a_ratio_that_is_none(snr):
    with pytest.raises(ValueError, match="finite number of decibels"):
        WhiteNoise(snr)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="protocol is one of"):
        NoiseProtocol("published")
    with pytest.raises(ValueError, match="noise_units is one of"):
        NoiseProtocol("qmf", "imagenet")
