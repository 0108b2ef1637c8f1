"""Translation with fusion against the plain encoder–decoder of the same size: training, beam search, and waiting for data.

    python benchmarks/translation_step.py [--device cuda --dtype bfloat16 --batch-size 128] [--json FILE]

The encoder–decoder is Marian's with random weights; the fusion models put a picture's features (one vector of 1280 numbers)
beside the same one. A training step is forward, loss, backward, clipping and AdamW on a batch that lies ready. Beam search
takes 5 beams and makes as many tokens in every model. Steps of the plain and of each fusion model take turns in an order
that changes from round to round, so that a drift of the machine's speed cancels; a ratio is the median over rounds of the
plain model's seconds over the fusion model's, that is fusion's throughput over the plain one's.

`train_ratio` and `generate_ratio` are those of the slowest fusion. `data_wait_share` is the share of a training by
`MultimodalSeq2SeqTrainer` that is spent waiting for batches, which are made of texts and features in the training's own
process: rows from Arrow, sentencepiece, padding.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, Value
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, MarianConfig

from hf_mmalign import (
    FusionForConditionalGeneration,
    FusionSeq2SeqConfig,
    MultimodalCollator,
    MultimodalProcessor,
    MultimodalSeq2SeqTrainer,
    MultimodalSeq2SeqTrainingArguments,
)
from hf_mmalign.data.schema import TARGET, feature_sequence
from hf_mmalign.data.tokenizers import train_seq2seq_tokenizer

FUSIONS = ("concat", "auto", "attention")
PICTURE = 1280
BEAMS = 5
PLAIN = "plain"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="autocast type")
    parser.add_argument("--batch-size", type=int, default=128, help="sentences of a training step")
    parser.add_argument("--generate-batch-size", type=int, default=32, help="sentences of a beam search")
    parser.add_argument("--width", type=int, default=128, help="of the encoder–decoder")
    parser.add_argument("--layers", type=int, default=4, help="of encoder and of decoder")
    parser.add_argument("--vocabulary", type=int, default=6000)
    parser.add_argument("--words", type=int, default=12, help="of a sentence, on average")
    parser.add_argument("--sentences", type=int, default=4000, help="of which vocabulary and training rows are made")
    parser.add_argument("--repeats", type=int, default=20, help="rounds")
    parser.add_argument("--data-steps", type=int, default=30, help="steps of the Trainer, to see how long it waits")
    parser.add_argument("--fusions", nargs="+", default=list(FUSIONS), choices=FUSIONS)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args(argv)


def made_up_rows(count: int, words: int) -> Dataset:
    """Sentences of made-up words, a few of them frequent and most of them rare, as in a language."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    lexicon = ["".join(rng.choice(letters, size=rng.integers(2, 10))) for _ in range(8 * count)]
    frequency = 1 / np.arange(1, len(lexicon) + 1)
    frequency /= frequency.sum()

    def sentence() -> str:
        chosen = rng.choice(len(lexicon), size=max(2, rng.poisson(words)), p=frequency)
        return " ".join(lexicon[index] for index in chosen).capitalize() + "."

    rows = {"text": [sentence() for _ in range(count)], TARGET: [sentence() for _ in range(count)]}
    pictures = list(rng.standard_normal((count, 1, PICTURE)).astype(np.float32))
    columns = {"text": Value("string"), TARGET: Value("string"), "image": feature_sequence(PICTURE)}
    return Dataset.from_dict(rows | {"image": pictures}, features=Features(columns)).with_format("numpy")


def build_models(arguments: argparse.Namespace, tokenizer) -> dict[str, nn.Module]:
    """The plain encoder–decoder, and each fusion around another of the same config."""
    width, ids = arguments.width, {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 256}
    sizes |= {"encoder_ffn_dim": 2 * width, "decoder_ffn_dim": 2 * width}
    sizes |= {"encoder_layers": arguments.layers, "decoder_layers": arguments.layers}
    text = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=width,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        forced_eos_token_id=None,
        **ids,
        **sizes,
    )
    models: dict[str, nn.Module] = {PLAIN: AutoModelForSeq2SeqLM.from_config(text)}
    for fusion in arguments.fusions:
        config = FusionSeq2SeqConfig(
            text_config=text, feature_sizes={"image": PICTURE}, encoder={"image": "mlp"}, fusion=fusion
        )
        models[fusion] = FusionForConditionalGeneration(config)
    return {name: model.to(arguments.device) for name, model in models.items()}


def inputs_of(name: str, batch: dict) -> dict:
    """What a model is given: the plain one the text."""
    given = {key: batch[key] for key in ("input_ids", "attention_mask")}
    return given if name == PLAIN else given | {key: batch[key] for key in ("features", "feature_mask")}


def by_turns(names: list[str], repeats: int, device: str, act: Callable[[str], object]) -> dict[str, list[float]]:
    """Seconds of `act` of each name in every round, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name in names[:: 1 if turn % 2 else -1]:
            _synchronize(device)
            start = time.perf_counter()
            act(name)
            _synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def training(arguments: argparse.Namespace, models: dict[str, nn.Module], batch: dict) -> dict[str, list[float]]:
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-5) for name, model in models.items()}

    def step(name: str) -> None:
        model = models[name].train()
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            loss = model(**inputs_of(name, batch), labels=batch["labels"]).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers[name].step()
        optimizers[name].zero_grad()

    return by_turns(list(models), arguments.repeats, arguments.device, step)


def generation(arguments: argparse.Namespace, models: dict[str, nn.Module], batch: dict) -> dict[str, list[float]]:
    length = max(4, 2 * arguments.words)

    def translate(name: str) -> Tensor:
        model = models[name].eval()
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            given = inputs_of(name, batch)
            return model.generate(**given, num_beams=BEAMS, min_length=length, max_length=length)

    return by_turns(list(models), arguments.repeats, arguments.device, translate)


class Waiting(MultimodalSeq2SeqTrainer):
    """Takes the time of what the training loop asks its data for."""

    def get_batch_samples(self, *positional, **keywords):
        start = time.perf_counter()
        try:
            return super().get_batch_samples(*positional, **keywords)
        finally:
            self.waited.append(time.perf_counter() - start)


def wait_share(arguments: argparse.Namespace, model: nn.Module, rows: Dataset, collator) -> float:
    """Share of the Trainer's time between its second batch and its last that goes into making batches."""
    with tempfile.TemporaryDirectory() as folder:
        settings = MultimodalSeq2SeqTrainingArguments(
            folder,
            per_device_train_batch_size=arguments.batch_size,
            max_steps=arguments.data_steps,
            bf16=arguments.dtype == "bfloat16",
            use_cpu=arguments.device == "cpu",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=arguments.device == "cuda",
            dataloader_drop_last=True,
        )
        trainer = Waiting(model, settings, train_dataset=rows, data_collator=collator)
        trainer.waited = []
        start = time.perf_counter()
        trainer.train()
        _synchronize(arguments.device)
        return sum(trainer.waited) / (time.perf_counter() - start)


def measure(arguments: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    rows = made_up_rows(arguments.sentences, arguments.words)
    texts = [text for column in ("text", TARGET) for text in rows.with_format(None)[column][:]]
    processor = MultimodalProcessor(train_seq2seq_tokenizer(texts, arguments.vocabulary))
    collator = MultimodalCollator(processor, {"text": "text", "image": PICTURE}, "translation", 1)
    models = build_models(arguments, processor.tokenizer)

    def batch(size: int) -> dict:
        return batch_of(collator, rows, size, arguments.device)

    trained = training(arguments, models, batch(arguments.batch_size))
    generated = generation(arguments, models, batch(arguments.generate_batch_size))
    fusions = {
        name: {
            "train_ratio": _ratio(trained, name),
            "generate_ratio": _ratio(generated, name),
            "train_samples_per_second": arguments.batch_size / statistics.median(trained[name]),
            "generate_sentences_per_second": arguments.generate_batch_size / statistics.median(generated[name]),
            "parameters": sum(parameter.numel() for parameter in models[name].parameters()),
        }
        for name in models
    }
    plain = fusions.pop(PLAIN)
    return {
        **{key: min(found[key] for found in fusions.values()) for key in ("train_ratio", "generate_ratio")},
        "data_wait_share": wait_share(arguments, models[arguments.fusions[0]], rows, collator),
        "fusions": fusions,
        "plain": {key: value for key, value in plain.items() if not key.endswith("ratio")},
    }


def batch_of(collator: MultimodalCollator, rows: Dataset, size: int, device: str) -> dict:
    batch = collator([rows[index] for index in range(min(size, len(rows)))])
    return _to(batch, device)


def _to(value, device: str):
    return {key: _to(item, device) for key, item in value.items()} if isinstance(value, dict) else value.to(device)


def _ratio(seconds: dict[str, list[float]], name: str) -> float:
    return statistics.median(plain / own for plain, own in zip(seconds[PLAIN], seconds[name], strict=True))


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    result = measure(arguments)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU"
    print(
        f"Marian, width {arguments.width}, {arguments.layers} + {arguments.layers} layers, B = {arguments.batch_size}, "
        f"{arguments.dtype}, {where}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.repeats} "
        f"rounds\n"
    )
    print("| model | training samples/s | ÷ plain | beam-5 sentences/s | ÷ plain |\n|---|---|---|---|---|")
    for name, found in ({PLAIN: result["plain"]} | result["fusions"]).items():
        ratios = [f"{found[key]:.3f}" if key in found else "" for key in ("train_ratio", "generate_ratio")]
        speeds = [found[key] for key in ("train_samples_per_second", "generate_sentences_per_second")]
        print(f"| {name} | {speeds[0]:.1f} | {ratios[0]} | {speeds[1]:.1f} | {ratios[1]} |")
    print(f"\nShare of a training spent waiting for data: {100 * result['data_wait_share']:.1f} %")
    if arguments.json:
        settings = {key: str(value) for key, value in vars(arguments).items() if key != "json"}
        arguments.json.write_text(json.dumps({"settings": settings, **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
