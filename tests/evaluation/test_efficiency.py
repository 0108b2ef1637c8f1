"""What a model costs, against counts by hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_mmalign import FusionConfig
from hf_mmalign.evaluation.efficiency import ModelEfficiency, PeakMemory, count_flops, count_parameters, time_forward
from hf_mmalign.evaluation.synthetic import synthetic_inputs, synthetic_labels
from hf_mmalign.layers.lstm_encoder import LSTMEncoder
from hf_mmalign.layers.sequence_transformer import SequenceTransformer
from tests.families import FAMILIES, build
from tests.models.translation import translator

T, D, H = 7, 6, 8


class Attention(nn.Module):
    """The bare function, with and without a mask."""

    def forward(self, queries, keys, mask=None):
        return F.scaled_dot_product_attention(queries, keys, keys, attn_mask=mask)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


QUERIES, KEYS = random(1, 2, T, 4), random(1, 2, 9, 4)
MASK = torch.arange(9).lt(5).view(1, 1, 1, 9)
TOKENS = random(1, T, H)
FEATURES, VALID = random(1, T, D), torch.ones(1, T, dtype=torch.bool)
# By layer: the module, its inputs, and its multiplications and additions.
BY_HAND = {
    "linear": (nn.Linear(D, H), {"input": FEATURES}, 2 * T * D * H),
    "convolution over time": (nn.Conv1d(D, H, 3, padding=1), {"input": FEATURES.mT}, 2 * T * 3 * D * H),
    "convolution of pictures": (nn.Conv2d(3, H, 4, stride=4), {"input": random(1, 3, 16, 8)}, 2 * 8 * 3 * 16 * H),
    "attention": (Attention(), {"queries": QUERIES, "keys": KEYS}, 4 * T * 9 * 8),
    "attention with a mask": (Attention(), {"queries": QUERIES, "keys": KEYS, "mask": MASK}, 4 * T * 9 * 8),
    "attention layer": (
        nn.MultiheadAttention(H, 2, batch_first=True),
        {"query": TOKENS, "key": TOKENS, "value": TOKENS},
        2 * 4 * T * H * H + 4 * T * T * H,
    ),
    "two LSTMs": (
        nn.LSTM(D, H, num_layers=2, batch_first=True),
        {"input": FEATURES},
        2 * T * 4 * H * (D + H) + 2 * T * 4 * H * (H + H),
    ),
    "our LSTM": (LSTMEncoder(D, H), {"features": FEATURES, "mask": VALID}, 2 * T * 4 * H * (D + H)),
    "our transformer": (
        SequenceTransformer(D, H, num_layers=2, num_heads=2),
        {"features": FEATURES, "mask": VALID},
        2 * T * D * H + 2 * (2 * T * 12 * H * H + 4 * T * T * H),
    ),
}


@pytest.mark.parametrize("layer", BY_HAND)
def test_flops_are_those_by_hand(layer):
    module, inputs, expected = BY_HAND[layer]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    assert count_flops(module, inputs) == expected
    assert torch.backends.mkldnn.enabled
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


def test_flops_of_a_one_tower():
    """Projections of the features, layers over all tokens and the class token, pooler and head."""
    model, *_ = build("bert_wma", feature_sizes={"text": 5, "audio": 3})
    sizes = {"text": {"steps": 6}, "audio": {"steps": 9}}
    d, tokens = 32, 1 + 6 + 9
    layer = 2 * tokens * (4 * d * d + 2 * d * 48) + 4 * tokens * tokens * d
    expected = 2 * d * (6 * 5 + 9 * 3) + 2 * layer + 2 * d * d + 2 * d * 3
    assert count_flops(model, synthetic_inputs(model.config, sizes, 1)) == expected


def test_shared_parameters_count_once_and_frozen_ones_are_not_trained():
    model = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2)])
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    assert count_parameters(model) == (9 + 8, 9)


@pytest.mark.parametrize("family", [*FAMILIES, "translation"])
def test_every_family_takes_the_inputs_that_its_config_asks_for(family):
    model = translator()[0] if family == "translation" else build(family)[0]
    config = model.config
    sizes = {name: {"steps": 6} for name in config.modalities} | {"image": {"height": 32, "width": 24}}
    if isinstance(config.modality_kinds.get("image"), int):
        sizes["image"] = {"steps": 6}
    generator = torch.Generator().manual_seed(0)
    inputs = synthetic_inputs(config, sizes, 2, generator)
    labels = synthetic_labels(config, sizes, 2, generator)
    assert model(**inputs, labels=labels).loss.isfinite()
    embeddings = model.embed_modalities(**inputs)
    assert list(embeddings) == config.modalities
    assert all(embedding.present.all() for embedding in embeddings.values()), "no sample misses anything"


def test_labels_are_those_of_the_task():
    def labels(**fields):
        return synthetic_labels(FusionConfig(feature_sizes={"audio": 3}, **fields), {}, 5)

    assert labels(num_labels=3).dtype == torch.long
    assert labels(num_labels=1).shape == (5,)
    assert labels(num_labels=3, problem_type="regression").shape == (5, 3)
    several = labels(num_labels=3, problem_type="multi_label_classification")
    assert several.shape == (5, 3)
    assert set(several.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({}, r"takes 'audio' as features of width 3, and inputs has no steps of it, but \{\}; for example `inputs: "),
        ({"width": 3}, "no steps of it"),
        ({"steps": 2, "width": 4}, "features of width 3, and inputs has width 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(size, message):
    config = FusionConfig(feature_sizes={"audio": 3})
    with pytest.raises(ValueError, match=message):
        synthetic_inputs(config, {"audio": size} if size else {}, 1)


def test_raw_sound_is_not_measured():
    config = FusionConfig(encoders={"audio": {"model_type": "wav2vec2", "num_hidden_layers": 1}})
    with pytest.raises(ValueError, match="takes 'audio' as raw audio, which is not measured"):
        synthetic_inputs(config, {"audio": {"steps": 100}}, 1)


def test_each_pass_is_timed_but_those_to_warm_up():
    seen = []

    class Model(nn.Module):
        def forward(self, index):
            seen.append(index)
            assert not self.training

    seconds = time_forward(Model(), [{"index": 0}, {"index": 1}], count=3, warm_up=2)
    assert len(seconds) == 3
    assert seen == [0, 1, 0, 1, 0]
    assert min(seconds) > 0


def test_figures_of_what_was_measured():
    counts = {"parameters": 10, "trainable_parameters": 8, "flops": 100}
    found = ModelEfficiency.of(counts, [0.001] * 90 + [0.01] * 10, [1.0, 2.0], steps_per_epoch=4, peak_memory_mib=None)
    assert found.latency_ms_median == pytest.approx(1)
    assert found.latency_ms_p95 == pytest.approx(10)
    assert found.train_step_seconds == pytest.approx(1.5)
    assert found.seconds_per_epoch == pytest.approx(6)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_memory_that_was_given_back_counts_in_the_peak():
    memory = PeakMemory("cpu")
    block = torch.ones(2**26 // 4)
    del block
    assert memory.mib() >= 60
