import pytest
from transformers import BertConfig

from hf_mmalign import DecAlignConfig
from hf_mmalign.models.decalign.configuration_decalign import LOSS_TERMS
from tests.tiny import BACKBONE

SIZES = {"vision": 4, "audio": 3}


def text() -> BertConfig:
    return BertConfig(**BACKBONE, max_position_embeddings=20)


def test_modalities_default_to_raw_text_and_the_features():
    config = DecAlignConfig(feature_sizes=SIZES, text_config=text())
    assert config.modalities == ["text", "vision", "audio"]
    assert config.modality_kinds == {"text": "text", "vision": 4, "audio": 3}
    assert config.modality_pairs == [("text", "vision"), ("text", "audio"), ("vision", "audio")]
    assert config.max_position_embeddings == 20
    assert DecAlignConfig(feature_sizes=SIZES | {"text": 6}).modality_kinds == {"vision": 4, "audio": 3, "text": 6}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modalities": ["vision", "vision", "audio"]}, "names one twice"),
        ({"modalities": ["vision"], "feature_sizes": {"vision": 4}}, "at least two modalities"),
        ({"modalities": ["vision", "audio", "text"]}, "raw text, as 'text', needs a text_config"),
        ({"modalities": ["vision", "audio", "smell"], "text_config": text()}, "modalities has 'smell'"),
        ({"modalities": ["vision", "text"], "text_config": text()}, r"feature_sizes has \['audio'\], which"),
        ({"feature_sizes": {"text": 6, "vision": 4}, "text_config": text()}, "'text' comes as features"),
        ({"feature_sizes": {"vision": 0, "audio": 3}}, r"feature_sizes\['vision'\] is 0"),
        ({"hidden_size": 10, "num_attention_heads": 4}, "no multiple of num_attention_heads"),
        ({"attention_dropout": {"vision": 1.0}}, "attention_dropout of 'vision' is 1.0"),
        ({"conv_kernel_size": {"smell": 3}}, r"conv_kernel_size has \['smell'\]"),
        ({"decalign_alpha": -0.1}, "decalign_alpha is -0.1"),
        ({"disabled_losses": ["mmd"]}, r"disabled_losses has \['mmd'\]"),
        ({"mixture_momentum": 1.0}, "mixture_momentum is 1.0"),
        ({"mixture_variance_floor": 0.0}, "mixture_variance_floor is 0.0"),
        ({"contrastive_range": [3.0, -3.0]}, "contrastive_range is"),
    ],
)
def test_what_does_not_fit_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        DecAlignConfig(**{"feature_sizes": SIZES} | fields)


def test_a_misspelt_argument_is_refused():
    with pytest.raises(TypeError, match=r"'decalign_aplha' .did you mean 'decalign_alpha'"):
        DecAlignConfig(feature_sizes=SIZES, decalign_aplha=1.0)


def test_which_terms_are_computed():
    config = DecAlignConfig(feature_sizes=SIZES, decalign_beta=0.0, disabled_losses=["hete_transport", "contrastive"])
    parts = {part for parts in LOSS_TERMS.values() for part in parts}
    assert {name for name in parts | LOSS_TERMS.keys() if config.computes(name)} == {
        "decouple",
        "hete",
        "hete_prototype",
    }
    both = DecAlignConfig(feature_sizes=SIZES, disabled_losses=["homo_semantic", "homo_mmd"])
    assert not both.computes("homo")
