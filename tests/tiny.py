"""Small models and batches, built from configs."""

import torch

CLS, SEP, PAD = 2, 3, 0
BACKBONE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": PAD,
}
TOKENS = {"cls_token_id": CLS, "sep_token_id": SEP}
VILT = BACKBONE | {"image_size": 32, "patch_size": 8}


def text_batch(lengths: list[int], generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
    """Token ids [CLS] … [SEP] padded to the longest; a length of 0 is a sample without text."""
    width = max(*lengths, 2)
    ids = torch.randint(5, 60, (len(lengths), width), generator=generator)
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    ids[:, 0] = CLS
    for row, length in enumerate(lengths):
        if length:
            ids[row, length - 1] = SEP
    ids = ids.masked_fill(~mask, PAD)
    return {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": torch.zeros_like(ids)}


def image_batch(sizes: list[tuple[int, int]], generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
    """Pictures padded to the largest height and width; (0, 0) is a sample without a picture."""
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    mask = torch.zeros(len(sizes), height, width, dtype=torch.long)
    for row, (h, w) in enumerate(sizes):
        mask[row, :h, :w] = 1
    return {
        "pixel_values": torch.randn(len(sizes), 3, height, width, generator=generator) * mask[:, None],
        "pixel_mask": mask,
    }


def feature_batch(
    lengths: dict[str, list[int]], widths: dict[str, int], generator: torch.Generator | None = None
) -> dict:
    """Feature sequences padded at the end; a length of 0 is a sample without the modality."""
    features, masks = {}, {}
    for name, rows in lengths.items():
        steps = max(*rows, 1)
        masks[name] = (torch.arange(steps) < torch.tensor(rows).unsqueeze(1)).long()
        features[name] = torch.randn(len(rows), steps, widths[name], generator=generator) * masks[name].unsqueeze(-1)
    return {"features": features, "feature_mask": masks}


def rows_of(batch: dict, rows: slice | list[int]) -> dict:
    """The same rows of every tensor of a batch."""
    return {key: rows_of(value, rows) if isinstance(value, dict) else value[rows] for key, value in batch.items()}
