"""What the configs of all models refuse."""

import math
from dataclasses import MISSING, fields

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, BertConfig

from hf_mmalign import BertWmaConfig, DecAlignConfig, FusionConfig, ViltWmaConfig
from tests.families import ALL, build
from tests.tiny import BACKBONE

CONFIGS = {config.__name__: config for config in (BertWmaConfig, DecAlignConfig, FusionConfig, ViltWmaConfig)}
SIZES = {"vision": 4, "audio": 3}
NUMBERS = [
    (name, field.name)
    for name, config in CONFIGS.items()
    for field in fields(config)
    if field.default is not MISSING and type(field.default) in (int, float)
]


@pytest.mark.parametrize(("config", "field"), NUMBERS)
def test_every_number_is_finite(config, field):
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises((ValueError, StrictDataclassError), match=field):
            CONFIGS[config](**{"feature_sizes": SIZES, field: value})


def test_the_fields_of_losses_are_among_them():
    assert {"wma_alpha", "wma_beta"} <= {field for config, field in NUMBERS if config == "BertWmaConfig"}
    weights = {"decalign_alpha", "decalign_beta", "contrastive_weight", "decoupling_weight", "polarity_weight"}
    assert weights <= {field for config, field in NUMBERS if config == "DecAlignConfig"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_dropout": {"vision": math.nan}}, r"attention_dropout\['vision'\] is nan"),
        ({"contrastive_range": [-1.0, math.inf]}, r"contrastive_range\[1\] is inf"),
        ({"text_config": BertConfig(**BACKBONE, layer_norm_eps=math.nan)}, r"text_config\['layer_norm_eps'\] is nan"),
        ({"decalign_alpha": 1e39}, r"decalign_alpha is 1e\+39; it must be a finite number"),
        ({"decalign_alpha": 10**400}, "decalign_alpha is 1000"),
    ],
)
def test_numbers_inside_of_fields_and_those_too_large_for_fp32(fields, message):
    with pytest.raises(ValueError, match=message):
        DecAlignConfig(**{"feature_sizes": SIZES} | fields)


def test_a_saved_folder_is_held_to_it_too(tmp_path):
    BertWmaConfig(feature_sizes=SIZES, wma_beta=1.25).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("1.25", "NaN"))
    with pytest.raises(ValueError, match="wma_beta is nan"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_model_of_no_modality_is_none():
    for config in (DecAlignConfig, FusionConfig):
        with pytest.raises(ValueError, match="feature_sizes is empty"):
            config(num_labels=2)


@pytest.mark.parametrize("name", ["forward", "keys", "vis.ion", "type", "", "training"])
@pytest.mark.parametrize("config", CONFIGS)
def test_names_that_a_module_cannot_take_are_refused(config, name):
    with pytest.raises(ValueError, match=f"modalities has .*'{name}'"):
        CONFIGS[config](feature_sizes={"vision": 4, name: 3})


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (BertWmaConfig, {"num_attention_heads": 0}, "num_attention_heads is 0"),
        (BertWmaConfig, {"num_attention_heads": 7}, "no multiple of num_attention_heads"),
        (BertWmaConfig, {"num_labels": 0}, "num_labels is 0"),
        (ViltWmaConfig, {"patch_size": 0}, "patch_size is 0"),
        (ViltWmaConfig, {"image_size": 16}, "image_size is 16; it is at least patch_size"),
        (DecAlignConfig, {"layer_norm_eps": 0.0}, "layer_norm_eps is 0"),
    ],
)
def test_sizes_that_divide_by_zero_or_fail_later(config, fields, message):
    with pytest.raises(ValueError, match=message):
        config(**{"feature_sizes": SIZES} | fields)


@pytest.mark.parametrize("family", ALL)
def test_auto_model_is_the_one_class_there_is(tmp_path, family):
    model, _, _ = build(family)
    model.save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is type(model)
    assert type(AutoModel.from_config(model.config)) is type(model)
