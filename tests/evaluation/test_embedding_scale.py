"""Noise in units of the embeddings' standard deviation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_mmalign.evaluation.embedding_scale import embedding_stds
from hf_mmalign.evaluation.scores import Condition
from hf_mmalign.perturbation.modalities import ModalityNoise
from tests.evaluation.test_robustness import reference_metrics, run
from tests.evaluation.tiny_model import TinyData, TinyModel
from tests.families import FAMILIES, build


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_spread_of_a_dimension_whatever_its_mean(family, offset):
    """Of the content tokens of all batches together, in float64."""
    model, inputs, _ = build(family)
    embed, parts = model.eval().embed_modalities, []

    def shifted(**batch):
        embeddings = embed(**batch)
        found = {name: replace(one, tokens=one.tokens.double() + offset) for name, one in embeddings.items()}
        parts.append(found)
        return found

    model.embed_modalities = shifted
    stds = embedding_stds(model, [inputs, inputs], model.config.modalities)
    for name in model.config.modalities:
        tokens = torch.cat([one[name].tokens[one[name].content_mask] for one in parts if name in one])
        expected = np.sqrt(tokens.detach().numpy().var(axis=0).mean())
        assert stds[name] == pytest.approx(expected, rel=1e-6)


def test_one_token_has_no_spread():
    one = {"features": {"vision": torch.ones(1, 1, 5)}, "feature_mask": {"vision": torch.ones(1, 1)}}
    assert embedding_stds(TinyModel().eval(), [one], ["vision", "audio"]) == {"vision": 0.0, "audio": 0.0}


def test_noise_of_one_standard_deviation_is_that_noise():
    model, data = TinyModel("single_label_classification", 3), TinyData(23, "single_label_classification", 3)
    batch = data.collate(data.rows)
    batch.pop("labels")
    stds = embedding_stds(model.eval(), [batch], ["vision", "audio"])
    report = run(model, data, noise_amplitude=(0.5, 2.0), noise_unit="std", missing_ratios=())
    for modality in ("vision", "audio"):
        for amplitude in (0.5, 2.0):
            scores = report.scores[Condition("noise", modality, amplitude)]
            for place, seed in enumerate((0, 1)):
                hook = ModalityNoise(modality, range(23), amplitude, seed, unit=stds[modality])
                expected = reference_metrics(model, data, lambda hook=hook: hook)
                assert scores["accuracy"].values[place] == pytest.approx(expected["accuracy"])
    assert "a = 0.5, 2 of their standard deviation" in report.to_markdown()
    assert "standard deviation, on" not in run(model, data).to_markdown()


def test_a_unit_scales_one_and_the_same_draw():
    tokens = torch.zeros(2, 3, 4)
    embedding = next(iter(build("fusion")[0].embed_modalities(**build("fusion")[1]).values()))
    embedding = replace(embedding, tokens=tokens, mask=torch.ones(2, 3).bool(), content_mask=torch.ones(2, 3).bool())
    noises = [
        ModalityNoise("audio", range(2), amplitude, unit=unit)({"audio": embedding})["audio"].tokens
        for amplitude, unit in ((1.0, 1.0), (1.0, 4.7), (4.7, 1.0))
    ]
    torch.testing.assert_close(noises[0] * 4.7, noises[1])
    torch.testing.assert_close(noises[1], noises[2])
    with pytest.raises(ValueError, match="unit of noise"):
        ModalityNoise("audio", range(2), unit=-1.0)


def test_an_unknown_unit_is_named():
    with pytest.raises(ValueError, match=r"noise_unit is one of .*'std'.*, not 'sd'"):
        run(TinyModel(), TinyData(3), noise_unit="sd")
