"""A folder in which README's code runs: what it names as pretrained models, files and data sets, small, in the true forms.

A relative path is also a folder, so `from_pretrained("dandelin/vilt-b32-mlm")` finds one here instead of asking the Hub.
"""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizerFast,
    TimmWrapperConfig,
    TimmWrapperModel,
    ViltConfig,
    ViltForMaskedLM,
    ViltImageProcessor,
    ViltProcessor,
)

WORDS = ["so", "happy", "today", "what", "a", "mess", "never", "again", "the", "best", "day", "no", "picture"]
# The special tokens where BERT's vocabulary has them.
_UNUSED = [f"[unused{number}]" for number in range(99)]
TOKENS = ["[PAD]", *_UNUSED, "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
VOCABULARY = {token: index for index, token in enumerate(TOKENS)}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BERT = SMALL | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40}
MOODS = ("bad", "fair", "good")


def furnish(home: Path) -> None:
    """Put everything into an empty folder."""
    torch.manual_seed(0)
    tokenizer = BertTokenizerFast(vocab=VOCABULARY, model_max_length=40)
    vilt = home / "dandelin" / "vilt-b32-mlm"
    ViltForMaskedLM(ViltConfig(**BERT, image_size=32, patch_size=8)).save_pretrained(vilt)
    pictures = ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    ViltProcessor(pictures, tokenizer).save_pretrained(vilt)
    for name, kind in (
        ("google-bert/bert-base-uncased", BertForMaskedLM),
        ("sentence-transformers/all-MiniLM-L6-v2", BertModel),
    ):
        folder = home / name
        kind(BertConfig(**BERT)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    BertModel(BertConfig(**BERT | {"max_position_embeddings": 64})).save_pretrained(home / "encoders" / "minilm")
    BertTokenizerFast(vocab=VOCABULARY, model_max_length=64).save_pretrained(home / "encoders" / "minilm")
    seen = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bicubic"}
    layers = {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 6], "stem_width": 4}
    stem = TimmWrapperConfig(architecture="resnet10t", num_labels=0, pretrained_cfg=seen, model_args=layers)
    TimmWrapperModel(stem).save_pretrained(home / "encoders" / "efficientnet-lite0")
    rng = np.random.default_rng(0)
    picture(rng).save(home / "photo.jpg")
    _memes(home / "data" / "hateful_memes", rng)
    _memes(home / "PATH" / "TO" / "mvsa-single", rng, test_label=True)
    _reviews(home / "reviews.csv", rng, 60, labelled=True)
    _reviews(home / "new.csv", rng, 5, labelled=False)


def picture(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 255, (32, 40, 3), dtype=np.uint8))


def _sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, 4))


def _memes(folder: Path, rng: np.random.Generator, test_label: bool = False) -> None:
    (folder / "img").mkdir(parents=True)
    for split, first in (("train", 0), ("dev", 8), ("test", 12)):
        rows = []
        for number in range(first, first + (8 if split == "train" else 4)):
            picture(rng).save(folder / "img" / f"{number:05d}.png")
            row = {"id": number, "img": f"img/{number:05d}.png", "text": _sentence(rng)}
            rows.append(json.dumps(row | ({} if split == "test" and not test_label else {"label": number % 2})))
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _reviews(path: Path, rng: np.random.Generator, count: int, labelled: bool) -> None:
    """A text, a vector, a sequence as a list in JSON or as a file, and a mood."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "review", "face", "mfcc", *(["mood"] if labelled else [])])
        for row in range(count):
            mfcc = rng.normal(size=(1 + row % 4, 3)).round(3)
            name = f"{path.stem}-{row}.npy"
            np.save(path.with_name(name), mfcc)
            cells = [row, _sentence(rng), json.dumps(rng.normal(size=5).round(3).tolist())]
            cells.append(name if row % 2 else json.dumps(mfcc.tolist()))
            writer.writerow([*cells, *([MOODS[row % 3]] if labelled else [])])
