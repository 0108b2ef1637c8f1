"""Small translation models, one per kind of encoder–decoder, and a batch for them with ragged and missing modalities."""

import torch

from hf_mmalign import FusionForConditionalGeneration, FusionSeq2SeqConfig
from tests.tiny import feature_batch, image_batch

PAD, EOS, START = 0, 1, 3
IDS = {
    "vocab_size": 60,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": START,
    "decoder_start_token_id": START,
}
_BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": 40, "dropout": 0.0}
_BART |= {
    f"{side}_{size}": value
    for side in ("encoder", "decoder")
    for size, value in (("attention_heads", 2), ("ffn_dim", 24))
}
_T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "dropout_rate": 0.0,
}
TEXT_CONFIGS = {
    "marian": {"model_type": "marian", "forced_eos_token_id": EOS} | _BART | IDS,
    "bart": {"model_type": "bart", "forced_eos_token_id": EOS} | _BART | IDS | {"decoder_layers": 2},
    "t5": {"model_type": "t5"} | _T5 | IDS,
}
WIDTHS = {"vision": 4, "audio": 3}


def translator(kind: str = "marian", **fields):
    """`(model, batch, labels)`, the same in every call; sample 2 has no text, sample 3 no picture."""
    torch.manual_seed(0)
    defaults = {"text_config": TEXT_CONFIGS[kind], "feature_sizes": WIDTHS, "hidden_size": 8, "latent_size": 6}
    defaults |= {"encoders": {"image": {"architecture": "test_resnet"}}, "dropout": 0.0}
    model = FusionForConditionalGeneration(FusionSeq2SeqConfig(**defaults | fields)).eval()
    batch = texts([7, 4, 0, 6]) | image_batch([(32, 32), (16, 24), (40, 16), (0, 0)])
    batch |= feature_batch({"vision": [6, 3, 4, 5], "audio": [2, 0, 3, 1]}, WIDTHS)
    return model, batch, translations([5, 3, 6, 2])


def text_only(kind: str = "marian", **fields):
    """The same encoder–decoder without any other modality."""
    torch.manual_seed(0)
    config = FusionSeq2SeqConfig(text_config=TEXT_CONFIGS[kind], **fields)
    return FusionForConditionalGeneration(config).eval(), texts([7, 4, 3, 6]), translations([5, 3, 6, 2])


def texts(lengths: list[int]) -> dict[str, torch.Tensor]:
    """Token ids that end in `</s>`, padded; a length of 0 is a sample without text."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    ids = torch.randint(4, 60, mask.shape).masked_fill(~mask, PAD)
    for row, length in enumerate(lengths):
        if length:
            ids[row, length - 1] = EOS
    return {"input_ids": ids, "attention_mask": mask.long()}


def translations(lengths: list[int]) -> torch.Tensor:
    """Labels of the same kind, padded with -100."""
    batch = texts(lengths)
    return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
