"""Pretrain a small ViLT on the pictures of easy-VQA, for machines that reach no model hub.

    python benchmarks/vilt_without_a_hub.py PATH/TO/easy-vqa encoders

writes `encoders/vilt-easy-vqa`, a small stock ViLT with tokenizer and image processor, which any command takes in the place
of `dandelin/vilt-b32-mlm`, with `pretraining.json`, which tells how it does on held-out pictures; and
`encoders/vit-easy-vqa`, its half that sees pictures, as a stock ViT.

It learns from captions such as "a blue rectangle", which the questions about a picture give away, by the three losses that
ViLT and UNITER are pretrained with: image–text matching (a mismatched caption has another colour or another shape), masked
words, and word–patch alignment by optimal transport. The last is the distance of a matched pair less that of the mismatched
one, down to a margin: on matched pairs alone it is least where all tokens are one, and without a margin where all tokens of
a matched pair are one vector and all words of a mismatched one its opposite. Pictures of the validation split are held out,
as in every recipe on this data set.
"""

import argparse
import json
import random
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    ViltConfig,
    ViltImageProcessor,
    ViltModel,
    ViTConfig,
    ViTImageProcessor,
    get_linear_schedule_with_warmup,
)

from hf_mmalign import MultimodalProcessor, ViltWmaConfig, ViltWmaForSequenceClassification
from hf_mmalign.data.loading import load_multimodal_dataset
from hf_mmalign.data.processor import train_tokenizer
from hf_mmalign.losses.wma import transport_distance
from hf_mmalign.models.modeling_base import ModalityEmbedding
from hf_mmalign.trainer.token_geometry import token_cosines

SHAPES = ("circle", "rectangle", "triangle")
_NEGATED = re.compile(r"\b(not|no)\b")


def descriptions(questions: list[list], colours: list[str]) -> dict[int, tuple[str, str]]:
    """Colour and shape by picture, of those pictures whose questions tell both."""
    known: dict[int, dict[str, str]] = {}
    for question, answer, picture in questions:
        words = question.rstrip("?").split()
        told = [word for word in words if word in SHAPES or word in colours]
        if answer in ("yes", "no") and (answer == "yes") == bool(_NEGATED.search(question)):
            told = []  # what the picture does not show
        for word in (*told, *([] if answer in ("yes", "no") else [answer])):
            known.setdefault(picture, {})["shape" if word in SHAPES else "colour"] = word
    return {picture: (of["colour"], of["shape"]) for picture, of in known.items() if len(of) == 2}


class Captions:
    """Pictures, with a caption and a mismatched one of each.

    Args:
        rows: Of the reader `easy-vqa`.
        described (`dict[int, tuple[str, str]]`): Colour and shape by picture.
        questions (`list[list]`): Of the file that the rows' ids count in.
        colours (`list[str]`): All that a mismatched caption may name.
    """

    def __init__(self, rows, described: dict[int, tuple[str, str]], questions: list[list], colours: list[str]):
        places = {questions[int(name.split("/")[1])][2]: index for index, name in enumerate(rows["id"])}
        self.colours = colours
        self.pictures = [picture for picture in places if picture in described]
        self.described = [described[picture] for picture in self.pictures]
        self.images = [rows[places[picture]]["image"] for picture in self.pictures]

    def __len__(self) -> int:
        return len(self.pictures)

    def matched(self, index: int) -> str:
        return "a {} {}".format(*self.described[index])

    def mismatched(self, index: int, draw: random.Random) -> str:
        """The caption with another colour or with another shape."""
        colour, shape = self.described[index]
        if draw.random() < 0.5:
            return f"a {draw.choice([one for one in self.colours if one != colour])} {shape}"
        return f"a {colour} {draw.choice([one for one in SHAPES if one != shape])}"


class Pretraining(nn.Module):
    """A one-tower model whose head tells whether caption and picture match, with a second head that names masked words.

    Args:
        model ([`ViltWmaForSequenceClassification`]): With two classes.
        margin (`float`): By how much a mismatched pair's distance is to be the larger one.
    """

    def __init__(self, model: ViltWmaForSequenceClassification, margin: float):
        super().__init__()
        size = model.config.hidden_size
        self.model, self.margin = model, margin
        self.words = nn.Sequential(
            nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size), nn.Linear(size, model.config.vocab_size)
        )

    def forward(self, batch: dict[str, Tensor], masked: Tensor, position: Tensor) -> dict[str, Tensor]:
        """The three losses, what was right of two tasks, and the distances.

        Args:
            batch: Of B pictures each once with its caption, then each with the mismatched one.
            masked (`(B, T)`): The token ids of the first half with one word masked.
            position (`(B,)`): Which one.
        """
        half = len(masked)
        output, encoded = self.model.encode(self.model.embed_modalities(**batch))
        logits = self.model.classifier(self.model.vilt.pooler(output.last_hidden_state))
        matches = torch.arange(2 * half, device=logits.device) < half
        text, image = encoded["text"], encoded["image"]
        distance = transport_distance(text.tokens, image.tokens, text.content_mask, image.content_mask).value
        first = {name: value[:half] for name, value in batch.items()}
        _, named = self.model.encode(self.model.embed_modalities(**first | {"input_ids": masked}))
        rows = torch.arange(half, device=logits.device)
        words, wanted = self.words(named["text"].tokens[rows, position]), first["input_ids"][rows, position]
        return {
            "matching": F.cross_entropy(logits, matches.long()),
            "words": F.cross_entropy(words, wanted),
            "alignment": (self.margin + distance[:half] - distance[half:]).relu().mean(),
            "matching_accuracy": (logits.argmax(dim=1) == matches).float().mean(),
            "words_accuracy": (words.argmax(dim=1) == wanted).float().mean(),
            "distance_matched": distance[:half].mean(),
            "distance_mismatched": distance[half:].mean(),
            **token_cosines({name: _first(one, half) for name, one in encoded.items()}),
        }


def _first(embedding: ModalityEmbedding, count: int) -> ModalityEmbedding:
    return ModalityEmbedding(embedding.tokens[:count], embedding.mask[:count], embedding.content_mask[:count])


def batch_of(captions: Captions, indices: list[int], processor: MultimodalProcessor, draw: random.Random):
    """The arguments of [`Pretraining.forward`]; the word that is masked is the colour or the shape."""
    texts = [captions.matched(index) for index in indices] + [captions.mismatched(index, draw) for index in indices]
    images = [captions.images[index] for index in indices]
    batch = dict(processor(text=texts, images=images * 2))
    position = torch.tensor([draw.choice((2, 3)) for _ in indices])  # [CLS] a COLOUR SHAPE [SEP]
    masked = batch["input_ids"][: len(indices)].clone()
    masked[torch.arange(len(indices)), position] = processor.tokenizer.mask_token_id
    return batch, masked, position


@torch.no_grad()
def evaluate(task: Pretraining, captions: Captions, processor: MultimodalProcessor, size: int) -> dict[str, float]:
    """Means over all pictures, with mismatches and masks that are the same each time."""
    task.eval()
    draw, sums = random.Random(0), {}
    for start in range(0, len(captions), size):
        indices = list(range(start, min(start + size, len(captions))))
        for name, value in task(*batch_of(captions, indices, processor, draw)).items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(indices)
    task.train()
    return {name: value / len(captions) for name, value in sums.items()}


def pretrain(arguments: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(arguments.seed)
    draw = random.Random(arguments.seed)
    data = load_multimodal_dataset("easy-vqa", arguments.data)
    questions = json.loads((arguments.data / "train" / "questions.json").read_text(encoding="utf-8"))
    colours = [name for name in data["train"].features["label"].names if name not in (*SHAPES, "yes", "no")]
    described = descriptions(questions, colours)
    train, held_out = (Captions(data[split], described, questions, colours) for split in ("train", "validation"))
    texts = [*data["train"]["text"], *(train.matched(index) for index in range(len(train)))]
    tokenizer = train_tokenizer(texts, 200)
    side = train.images[0].size[0]
    processor = MultimodalProcessor(tokenizer, ViltImageProcessor(do_resize=False, size_divisor=16))
    network = {
        **{"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512},
        **{"initializer_range": 0.08, "image_size": side, "patch_size": 16, "vocab_size": len(tokenizer)},
    }
    config = ViltWmaConfig(
        **network,
        **{name: getattr(tokenizer, name) for name in ("cls_token_id", "sep_token_id", "pad_token_id")},
        wma_alpha=0.0,
        num_labels=2,
    )
    task = Pretraining(ViltWmaForSequenceClassification(config), arguments.margin)
    steps = arguments.epochs * (len(train) // arguments.batch_size)
    optimizer = torch.optim.AdamW(task.parameters(), lr=arguments.learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    found = {}
    for epoch in range(arguments.epochs):
        order = draw.sample(range(len(train)), len(train))
        for start in range(0, len(train) - arguments.batch_size + 1, arguments.batch_size):
            told = task(*batch_of(train, order[start : start + arguments.batch_size], processor, draw))
            loss = told["matching"] + told["words"] + arguments.alignment * told["alignment"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(task.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        found = evaluate(task, held_out, processor, arguments.batch_size)
        print(f"epoch {epoch + 1}: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)
    vilt, vit = arguments.output / "vilt-easy-vqa", arguments.output / "vit-easy-vqa"
    stock = task.model.vilt
    stock.config = ViltConfig(**network, pad_token_id=tokenizer.pad_token_id)
    stock.save_pretrained(vilt)
    tokenizer.save_pretrained(vilt)
    processor.image_processor.save_pretrained(vilt)
    (vilt / "pretraining.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    save_picture_half(stock, vit)
    return found


def save_picture_half(vilt: ViltModel, folder: Path) -> None:
    """What ViLT computes of a picture without a text: a ViT, which has no embedding of the modality."""
    config = vilt.config
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size")
    vit = ViTConfig(**{name: getattr(config, name) for name in sizes}, layer_norm_eps=config.layer_norm_eps)
    vit.architectures = ["ViTModel"]
    vit.save_pretrained(folder)
    # The names of published ViTs, which every transformers reads.
    weights = {name: tensor.clone() for name, tensor in vilt.state_dict().items() if "text_embeddings" not in name}
    picture = weights.pop("embeddings.token_type_embeddings.weight")[1]
    weights["embeddings.position_embeddings"] += picture
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ViTImageProcessor(size={"height": config.image_size, "width": config.image_size}).save_pretrained(folder)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path, help="easy-VQA's data folder")
    parser.add_argument("output", type=Path, help="where the two folders go")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--alignment", type=float, default=0.1, help="weight of word–patch alignment")
    parser.add_argument("--margin", type=float, default=0.2, help="of the distances of mismatched pairs")
    parser.add_argument("--seed", type=int, default=0)
    pretrain(parser.parse_args(given))


if __name__ == "__main__":
    main()
