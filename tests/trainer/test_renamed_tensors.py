"""Encoders whose tensors transformers saves under other names (ViT's are those of its earlier releases)."""

import torch

from hf_mmalign import FusionForSequenceClassification
from tests.trainer.training import build_fusion, build_trainer, weights

VIT = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
VIT |= {"image_size": 5, "patch_size": 5, "num_channels": 1}


def model():
    return build_fusion(encoders={"vision": VIT}, picture_steps={"vision": 5}, dropout=0.0)


def same(found, expected):
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different, different


def test_the_best_model_comes_back_whole_and_so_does_a_resumed_run(tmp_path):
    trainer = build_trainer(tmp_path, model(), save_strategy="steps", save_steps=1)
    trainer.train()
    last = weights(trainer.model)
    best = tmp_path / "checkpoint-1"
    saved = weights(FusionForSequenceClassification.from_pretrained(best))
    name = next(name for name in saved if "q_proj.weight" in name or "query.weight" in name)
    assert not torch.equal(saved[name], last[name])  # there is something to load
    trainer.state.best_model_checkpoint = str(best)
    trainer._load_best_model()
    same(weights(trainer.model), saved)

    resumed = build_trainer(tmp_path / "resumed", model())
    resumed.train(str(tmp_path / "checkpoint-2"))
    same(weights(resumed.model), last)
