"""One modality of every sample corrupted, with the draws of the clean protocol and of white noise."""

import numpy as np
import pytest
from PIL import Image

from hf_mmalign.perturbation.corruption import Corruption
from hf_mmalign.perturbation.protocols import NoiseProtocol, WhiteNoise

KINDS = {"text": "text", "photo": "image", "audio": 3}


def row(i):
    pixels = np.full((8, 8, 3), 100 + i % 50, np.uint8)
    return {"text": f"{i} one two", "photo": Image.fromarray(pixels), "audio": np.arange(12.0).reshape(4, 3) * i}


@pytest.mark.parametrize(("name", "noise"), [("text", "words-replaced"), ("photo", "gaussian")])
def test_every_sample_and_those_that_the_protocol_disturbs_as_it_does(name, noise):
    corruption, protocol = Corruption(name, KINDS[name], 10.0), NoiseProtocol("clean")
    assert corruption.noise == noise
    disturbed = 0
    for i in range(100):
        noisy = corruption.disturb(row(i), i, seed=3)
        assert {key for key in KINDS if np.any(np.asarray(noisy[key]) != np.asarray(row(i)[key]))} == {name}
        published = protocol.disturb(row(i), {name: KINDS[name]}, noise, 10.0, i, 3)
        if published is not None:
            disturbed += 1
            assert np.array_equal(np.asarray(published[name]), np.asarray(noisy[name]))
    assert 30 < disturbed < 70


def test_sequences_take_white_noise_and_what_is_missing_stays_so():
    corruption = Corruption("audio", 3, 5.0)
    assert (corruption.noise, corruption.in_decibels) == ("white-noise", True)
    expected = WhiteNoise(5.0).disturb(row(2), {"audio": 3}, 2, 1)
    assert np.array_equal(corruption.disturb(row(2), 2, 1)["audio"], expected["audio"])
    for name, kind in KINDS.items():
        assert Corruption(name, kind, 5.0).disturb(row(1) | {name: None}, 1) is None
    with pytest.raises(ValueError, match="epsilon is -1"):
        Corruption("text", "text", -1.0)
    with pytest.raises(ValueError, match="finite number of decibels"):
        Corruption("audio", 3, float("inf"))
