"""Normalisation of feature sequences: fitted on one split, applied to lists and padded tensors, saved and loaded."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features
from safetensors.torch import save_file

from hf_mmalign.data.collator import MultimodalCollator
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.feature_statistics import FeatureStatistics
from hf_mmalign.data.processor import MultimodalProcessor
from hf_mmalign.data.schema import feature_sequence


def dataset(**columns):
    rows = len(next(iter(columns.values())))
    features = {name: feature_sequence(sequences[0].shape[1]) for name, sequences in columns.items()}
    features = Features(features | {"label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({**columns, "label": [0] * rows}, features=features).with_format("numpy")


def sequences(seed=0, width=3):
    """Sequences of 0 to 6 steps, off-centre and of unequal scales."""
    rng = np.random.RandomState(seed)
    scale = 10.0 ** np.arange(-1, width - 1)
    return [(rng.randn(length, width) * scale + 5).astype(np.float32) for length in (3, 0, 1, 6, 2)]


@pytest.fixture
def fitted():
    return MultimodalProcessor().fit_features(dataset(audio=sequences(), vision=sequences(1, 2)))


def test_moments_are_those_of_all_valid_steps(fitted):
    steps = np.concatenate(sequences()).astype(np.float64)
    statistics = fitted.feature_statistics["audio"]
    np.testing.assert_allclose(statistics.mean, steps.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, steps.std(axis=0), rtol=1e-6)
    assert statistics.mean.dtype == statistics.std.dtype == torch.float32


def test_many_chunks_give_the_moments_of_one(monkeypatch):
    monkeypatch.setattr("hf_mmalign.data.validation._BATCH", 2)
    statistics = FeatureStatistics.fit(dataset(audio=sequences()), "audio")
    np.testing.assert_allclose(statistics.std, np.concatenate(sequences()).std(axis=0, dtype=np.float64), rtol=1e-6)


def test_a_shortened_data_set_is_fitted_on_what_is_left():
    data = dataset(audio=sequences()).select([3])
    np.testing.assert_allclose(FeatureStatistics.fit(data, "audio").mean, sequences()[3].mean(axis=0), rtol=1e-5)


def test_lists_are_normalised_and_padding_is_zero(fitted):
    batch = fitted(features={"audio": sequences(), "vision": sequences(1, 2)})
    valid = batch["feature_mask"]["audio"].bool()
    steps = batch["features"]["audio"][valid].double()
    torch.testing.assert_close(steps.mean(0), torch.zeros(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(steps.std(0, correction=0), torch.ones(3).double(), atol=1e-5, rtol=0)
    assert (batch["features"]["audio"][~valid] == 0).all()


def test_padded_tensors_are_normalised_alike_whatever_their_padding(fitted):
    listed = fitted(features={"audio": sequences()})
    plain = MultimodalProcessor()(features={"audio": sequences()})
    padded = plain["features"]["audio"].masked_fill(plain["feature_mask"]["audio"].unsqueeze(-1) == 0, torch.nan)
    batch = fitted(features={"audio": padded}, feature_mask={"audio": plain["feature_mask"]["audio"]})
    torch.testing.assert_close(batch["features"]["audio"], listed["features"]["audio"], rtol=0, atol=0)


def test_a_modality_without_statistics_stays_as_it_is():
    data = dataset(audio=sequences(), vision=sequences(1, 2))
    processor = MultimodalProcessor().fit_features(data, ["audio"])
    batch = processor(features={"vision": sequences(1, 2)})
    plain = MultimodalProcessor()(features={"vision": sequences(1, 2)})
    torch.testing.assert_close(batch["features"]["vision"], plain["features"]["vision"], rtol=0, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_a_constant_dimension_is_centred_and_does_not_blow_up(value):
    train = [np.full((50, 2), value, np.float32) for _ in range(20)]
    for index, sequence in enumerate(train):
        sequence[:, 1] = index
        sequence[index, 0] = np.nextafter(np.float32(value), np.float32(0))  # rounding is no information
    processor = MultimodalProcessor().fit_features(dataset(audio=train))
    assert processor.feature_statistics["audio"].std[0] == 1
    assert processor(features={"audio": train})["features"]["audio"].abs().max() < 2
    unseen = processor(features={"audio": [np.full((1, 2), value + 3, np.float32)]})["features"]["audio"]
    assert unseen[0, 0, 0] == pytest.approx(3, abs=0.2)


def test_a_dimension_that_is_nothing_beside_the_others_is_not_blown_up():
    """As MiniLM has one: noise on the features must stay noise of their strength."""
    train = [(sequence * [1, 1e-9, 1e-32]).astype(np.float32) for sequence in sequences()]
    processor = MultimodalProcessor().fit_features(dataset(audio=train))
    std = processor.feature_statistics["audio"].std
    assert std[2] == 1
    assert 0 < std[1] < 1e-6, "a unit of its own is none of these"
    noisy = processor(features={"audio": [train[0] + np.float32([[0, 0, 0.5]])]})["features"]["audio"]
    assert noisy.abs().max() < 100


def test_small_and_large_scales_survive():
    for scale in (1e-30, 1e30):
        train = [(sequence * scale).astype(np.float32) for sequence in sequences()]
        processor = MultimodalProcessor().fit_features(dataset(audio=train))
        steps = processor(features={"audio": [np.concatenate(train)]})["features"]["audio"][0]
        torch.testing.assert_close(steps.std(0, correction=0), torch.ones(3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_are_named(fitted, bad):
    spoilt = sequences()
    spoilt[3][4, 1] = bad
    with pytest.raises(DataError, match="row 3, field 'audio': 1 NaN or Inf values, the first at step 4, dimension 1"):
        MultimodalProcessor().fit_features(dataset(audio=spoilt))
    for processor in (fitted, MultimodalProcessor()):
        with pytest.raises(DataError, match=r"row 3, field 'audio': 1 NaN or Inf values, .* step 4, dimension 1"):
            processor(features={"audio": spoilt})


def test_what_cannot_be_fitted_is_refused():
    data = dataset(audio=sequences(), vision=[np.zeros((0, 2), np.float32)] * 5)
    with pytest.raises(DataError, match="field 'vision': missing in every row"):
        MultimodalProcessor().fit_features(data)
    with pytest.raises(DataError, match="field 'label': no feature sequence; there is audio, vision"):
        MultimodalProcessor().fit_features(data, ["label"])
    with pytest.raises(TypeError, match="one split"):
        MultimodalProcessor().fit_features(DatasetDict(train=data))


def test_another_width_is_refused(fitted):
    with pytest.raises(DataError, match="field 'audio': fitted to features of width 3, but got 4"):
        fitted(features={"audio": [np.zeros((2, 4))]})


def test_statistics_are_saved_with_the_processor(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    loaded = MultimodalProcessor.from_pretrained(tmp_path)
    call = {"features": {"audio": sequences(5), "vision": sequences(6, 2)}}
    for name in ("audio", "vision"):
        torch.testing.assert_close(loaded(**call)["features"][name], fitted(**call)["features"][name], rtol=0, atol=0)


def test_folders_without_statistics_load_as_before(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    MultimodalProcessor().save_pretrained(tmp_path)  # the older file still lies there
    assert MultimodalProcessor.from_pretrained(tmp_path).feature_statistics == {}
    old = {"processor_class": "MultimodalProcessor", "max_text_length": None, "truncation": True}
    (tmp_path / "processor_config.json").write_text(json.dumps(old))
    assert MultimodalProcessor.from_pretrained(tmp_path).feature_statistics == {}


def test_lost_or_spoilt_statistics_are_an_error_and_not_raw_features(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    file = tmp_path / "feature_statistics.safetensors"
    faults = {
        "missing; the file has only": {"audio.mean": torch.zeros(3), "audio.std": torch.ones(3)},
        "finite and above 0": {"audio.mean": torch.zeros(3), "audio.std": torch.tensor([1.0, 0.0, 1.0])},
        "must be finite": {"audio.mean": torch.full((3,), torch.nan), "audio.std": torch.ones(3)},
        r"not \(2,\) and \(3,\)": {"audio.mean": torch.zeros(2), "audio.std": torch.ones(3)},
    }
    for message, tensors in faults.items():
        save_file(tensors, file)
        with pytest.raises(DataError, match=rf"feature_statistics\.safetensors.*{message}"):
            MultimodalProcessor.from_pretrained(tmp_path)
    file.write_bytes(b"damaged")
    with pytest.raises(DataError, match="no readable safetensors file"):
        MultimodalProcessor.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(OSError, match="normalises audio, vision"):
        MultimodalProcessor.from_pretrained(tmp_path)


def test_the_collator_normalises_and_masks_a_missing_sequence(fitted):
    rows = list(dataset(audio=sequences(), vision=sequences(1, 2)))
    batch = MultimodalCollator(fitted, {"audio": 3, "vision": 2}, "single_label_classification", 2)(rows)
    assert not batch["features"]["audio"][1].any()
    assert not batch["feature_mask"]["audio"][1].any()
    np.testing.assert_allclose(
        batch["features"]["audio"][2, 0],
        (sequences()[2][0] - fitted.feature_statistics["audio"].mean.numpy())
        / fitted.feature_statistics["audio"].std.numpy(),
        rtol=1e-5,
    )
