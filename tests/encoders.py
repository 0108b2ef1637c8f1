"""A small encoder of every kind, each as the one modality of a batch of four whose third sample lacks it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import ASTConfig, BertConfig, PreTrainedConfig, T5Config, ViTConfig, Wav2Vec2Config, WhisperConfig

from tests.tiny import BACKBONE, feature_batch, text_batch

NARROW = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "hidden_dropout_prob", "attention_dropout", "attention_probs_dropout_prob", "activation_dropout",
     "feat_proj_dropout", "layerdrop", "mask_time_prob"), 0.0,
)  # fmt: skip
WAVES = Wav2Vec2Config(
    **NARROW | NO_DROPOUT, conv_dim=(8, 8), conv_kernel=(4, 3), conv_stride=(2, 2), num_feat_extract_layers=2,
    feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
)  # fmt: skip
WHISPER = WhisperConfig(
    vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=6, max_source_positions=8, dropout=0.0, attention_dropout=0.0,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip
T5 = T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0)

LSTM = {"vocab_size": 60, "embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "dropout": 0.0}


@dataclass(frozen=True)
class Kind:
    """`exact`: a sample's vector does not depend on how far a batch is padded."""

    name: str
    encoder: PreTrainedConfig | dict | str
    batch: Callable[[], dict]
    feature_sizes: dict[str, int] = field(default_factory=dict)
    fields: dict = field(default_factory=dict)
    exact: bool = True


def texts() -> dict:
    return text_batch([7, 4, 0, 6])


def pictures(channels: int = 3, size: int = 32) -> dict:
    mask = torch.ones(4, size, size, dtype=torch.long)
    mask[2] = 0
    return {"pixel_values": torch.randn(4, channels, size, size) * mask.unsqueeze(1), "pixel_mask": mask}


def sounds(steps: int, width: int | None, lengths=(40, 23, 0, 31), time_last: bool = False) -> dict:
    mask = (torch.arange(steps) < torch.tensor(lengths).unsqueeze(1)).long()
    values = torch.randn(4, steps, *[width] * (width is not None))
    values = values * (mask if width is None else mask.unsqueeze(2))
    return {"input_features" if time_last else "input_values": values.mT if time_last else values, "audio_mask": mask}


def sequences() -> dict:
    return feature_batch({"sound": [11, 6, 0, 9]}, {"sound": 8})


SOUND = {"sound": 8}
KINDS = {
    "bert": Kind("text", BertConfig(**BACKBONE, max_position_embeddings=20), texts),
    "t5": Kind("text", T5, texts),
    "text lstm": Kind("text", {"model_type": "mmalign_lstm"} | LSTM, texts),
    "vit": Kind("image", ViTConfig(**NARROW | NO_DROPOUT, image_size=32, patch_size=8), pictures),
    "resnet": Kind("image", {"architecture": "test_resnet"}, pictures),
    "efficientnet": Kind("image", {"architecture": "test_efficientnet"}, pictures),
    "timm vit": Kind("image", {"architecture": "test_vit", "img_size": 32}, pictures),
    "grey": Kind("image", {"architecture": "test_resnet", "in_chans": 1}, pictures),
    "wav2vec2": Kind("audio", WAVES, lambda: sounds(40, None)),
    "wav2vec2 without masks": Kind(
        "audio",
        {**WAVES.to_dict(), "feat_extract_norm": "group", "do_stable_layer_norm": False},
        lambda: sounds(40, None),
        exact=False,
    ),
    "ast": Kind(
        "audio",
        ASTConfig(
            **NARROW | NO_DROPOUT, patch_size=4, frequency_stride=2, time_stride=2, max_length=16, num_mel_bins=8
        ),
        lambda: sounds(16, 8, (16, 16, 0, 16)),
    ),
    "whisper": Kind("audio", WHISPER, lambda: sounds(16, 6, (16, 10, 0, 7), time_last=True)),
    "mlp": Kind("sound", "mlp", sequences, SOUND),
    "lstm": Kind("sound", "lstm", sequences, SOUND, {"num_encoder_layers": 2}),
    "transformer": Kind("sound", "transformer", sequences, SOUND, {"num_encoder_layers": 2}),
    "resnet on features": Kind(
        "sound",
        {"architecture": "test_resnet", "in_chans": 1},
        sequences,
        SOUND,
        {"picture_steps": {"sound": 32}},
    ),
    "resnet on features as long as the batch": Kind(
        "sound", {"architecture": "test_resnet"}, sequences, {"sound": 8}, exact=False
    ),
    "ast on features": Kind(
        "sound",
        ASTConfig(
            **NARROW | NO_DROPOUT, patch_size=4, frequency_stride=2, time_stride=2, max_length=16, num_mel_bins=8
        ),
        sequences,
        SOUND,
    ),
}
OF_OTHERS = [kind for kind, entry in KINDS.items() if not isinstance(entry.encoder, str)]
