"""A tiny model of every family with a batch for it, for tests of what all of them promise."""

import torch
from transformers import BertConfig

from hf_mmalign import (
    BertWmaConfig,
    BertWmaForSequenceClassification,
    DecAlignConfig,
    DecAlignForSequenceClassification,
    FusionConfig,
    FusionForSequenceClassification,
    ViltWmaConfig,
    ViltWmaForSequenceClassification,
)
from tests.tiny import BACKBONE, TOKENS, VILT, feature_batch, image_batch, text_batch

WIDTHS = {"vision": 5, "audio": 3}
LABELS = torch.tensor([0, 1, 1, 0])
_DECALIGN = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "num_prototypes": 3, "num_labels": 2}
_CALM = {"embedding_dropout": 0.0, "activation_dropout": 0.0, "residual_dropout": 0.0, "attention_dropout": 0.0}


def _decalign(**fields):
    return DecAlignForSequenceClassification(DecAlignConfig(feature_sizes=WIDTHS, **_DECALIGN | _CALM | fields))


def _one_tower(config_class, model_class, backbone, **fields):
    own = {"num_labels": 2, "feature_sizes": WIDTHS, "wma_alpha": 5.0, "wma_beta": 1.5}
    return model_class(config_class(**backbone | TOKENS | own | fields))


def _bert(**fields):
    return _one_tower(BertWmaConfig, BertWmaForSequenceClassification, BACKBONE, **fields)


def _vilt(**fields):
    return _one_tower(ViltWmaConfig, ViltWmaForSequenceClassification, VILT, **fields)


def _fusion(**fields):
    return FusionForSequenceClassification(
        FusionConfig(**{"feature_sizes": WIDTHS, "hidden_size": 16, "num_labels": 2, "dropout": 0.0} | fields)
    )


def _decalign_text(**fields):
    return _decalign(text_config=BertConfig(**BACKBONE), **TOKENS, **fields)


# Builder and the raw modalities it takes beside feature sequences.
FAMILIES = {
    "bert": (_bert, ("text",)),
    "vilt": (_vilt, ("text", "image")),
    "decalign": (_decalign, ()),
    "decalign text": (_decalign_text, ("text",)),
    "fusion": (_fusion, ()),
}


def build(family: str, seed: int = 0, **fields):
    torch.manual_seed(seed)
    return FAMILIES[family][0](**fields)


def make_batch(family: str) -> dict:
    """Four samples with padding everywhere; the third has no audio, the last no text."""
    generator = torch.Generator().manual_seed(1)
    batch = feature_batch({"vision": [6, 1, 4, 5], "audio": [2, 5, 0, 1]}, WIDTHS, generator)
    if "text" in FAMILIES[family][1]:
        batch |= text_batch([7, 4, 5, 0], generator)
    if "image" in FAMILIES[family][1]:
        batch |= image_batch([(32, 16), (24, 32), (32, 32), (16, 24)], generator)
    return batch
