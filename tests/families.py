"""A small model of every family, a batch with ragged and missing modalities for it, and labels."""

from functools import partial

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
from tests.models.translation import translator
from tests.tiny import BACKBONE, TOKENS, VILT, feature_batch, image_batch, text_batch

WIDTHS = {"vision": 4, "audio": 3}
LENGTHS = {"vision": [6, 3, 4, 5], "audio": [2, 0, 3, 1]}
TEXTS = [7, 4, 0, 6]
CLASSES = torch.tensor([0, 2, 1, 0])
VALUES = torch.tensor([-1.5, 0.0, 2.0, 0.5])
NO_DROPOUT = dict.fromkeys(("embedding_dropout", "attention_dropout", "activation_dropout", "residual_dropout"), 0.0)
DECALIGN = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "num_prototypes": 2} | NO_DROPOUT


def decalign(**fields):
    widths = {"text": 5} | WIDTHS
    config = DecAlignConfig(feature_sizes=widths, **DECALIGN | {"num_labels": 1} | fields)
    return DecAlignForSequenceClassification(config), feature_batch({"text": [3, 4, 2, 0]} | LENGTHS, widths), VALUES


def decalign_text(**fields):
    text = BertConfig(**BACKBONE, max_position_embeddings=20)
    config = DecAlignConfig(feature_sizes=WIDTHS, text_config=text, **DECALIGN | TOKENS | {"num_labels": 3} | fields)
    return DecAlignForSequenceClassification(config), text_batch(TEXTS) | feature_batch(LENGTHS, WIDTHS), CLASSES


def fusion(**fields):
    config = FusionConfig(**{"feature_sizes": WIDTHS, "hidden_size": 8, "num_labels": 3, "dropout": 0.0} | fields)
    return FusionForSequenceClassification(config), feature_batch(LENGTHS, WIDTHS), CLASSES


def fusion_encoders(**fields):
    encoders = {"text": BertConfig(**BACKBONE, max_position_embeddings=20), "image": {"architecture": "test_resnet"}}
    defaults = {"encoder": {"audio": "transformer"}, "unimodal_heads": True, "hidden_size": 8}
    defaults |= {"feature_sizes": WIDTHS, "encoders": encoders, "num_labels": 3, "dropout": 0.0} | TOKENS
    batch = text_batch(TEXTS) | image_batch([(32, 32), (16, 24), (40, 16), (0, 0)]) | feature_batch(LENGTHS, WIDTHS)
    return FusionForSequenceClassification(FusionConfig(**defaults | fields)), batch, CLASSES


def def_aaf(**fields):
    return fusion(**{"fusion": "def_aaf", "latent_size": 8, "class_dropout": 0.0} | fields)


def gan(**fields):
    return fusion(**{"fusion": "gan", "latent_size": 8} | fields)


def bert(**fields):
    config = BertWmaConfig(**BACKBONE | TOKENS | {"feature_sizes": WIDTHS, "num_labels": 3} | fields)
    return BertWmaForSequenceClassification(config), text_batch(TEXTS) | feature_batch(LENGTHS, WIDTHS), CLASSES


def vilt(**fields):
    config = ViltWmaConfig(**VILT | TOKENS | {"feature_sizes": {"audio": 3}, "num_labels": 3} | fields)
    batch = text_batch(TEXTS) | image_batch([(32, 32), (16, 24), (40, 16), (0, 0)])
    batch |= feature_batch({"audio": LENGTHS["audio"]}, WIDTHS)
    return ViltWmaForSequenceClassification(config), batch, CLASSES


FAMILIES = {
    "decalign": decalign,
    "decalign with a text encoder": decalign_text,
    "fusion": fusion,
    "fusion with encoders": fusion_encoders,
    "fusion with def_aaf": def_aaf,
    "fusion with gan": gan,
    "bert_wma": bert,
    "vilt_wma": vilt,
}


# Models that translate, whose decoder asks for labels or its own ids: they are none without.
TRANSLATORS = {
    f"translation with {fusion}": partial(translator, fusion=fusion)
    for fusion in ("concat", "auto", "gan", "def_aaf", "attention")
}
ALL = FAMILIES | TRANSLATORS


def build(family: str, **fields):
    """`(model, batch, labels)` of a family, the same in every call; `fields` go into the config."""
    torch.manual_seed(0)
    return ALL[family](**fields)


def each(batch: dict, function) -> dict:
    """`function` of every tensor of a batch."""
    return {key: each(value, function) if isinstance(value, dict) else function(value) for key, value in batch.items()}
