"""Training on a stream, which also runs as a script in several processes.

`python -m tests.trainer.streaming OUTPUT_DIR SHARDS [--key value …]` trains on numbered rows and notes in
`seen-RANK.json` which of them each optimisation step saw.
"""

import argparse
import json

import torch
from datasets import ClassLabel, Features, IterableDataset, Value
from safetensors.torch import save_file

from tests.trainer.training import Samples, build_model, build_trainer, collate, weights

SIZE = 16  # of the samples that a row's number stands for


class NumberCollator:
    """Rows of numbers as a batch of the samples with these numbers; remembers which it made."""

    def __init__(self):
        self.samples = Samples(SIZE)
        self.seen: list[list[int]] = []

    def __call__(self, rows: list[dict]) -> dict:
        self.seen.append([row["number"] for row in rows])
        return collate([self.samples[row["number"] % SIZE] for row in rows])


def numbers(shards: list[tuple[int, int]]):
    for first, stop in shards:
        for number in range(first, stop):
            yield {"number": number, "label": number % 2}


def numbered_stream(sizes: list[int], buffer_size: int | None = 4) -> IterableDataset:
    """Rows 0, 1, … in shards of these sizes, shuffled."""
    stops = torch.tensor(sizes).cumsum(0).tolist()
    shards = [(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
    features = Features({"number": Value("int64"), "label": ClassLabel(names=["a", "b"])})
    stream = IterableDataset.from_generator(numbers, features=features, gen_kwargs={"shards": shards})
    return stream if buffer_size is None else stream.shuffle(seed=0, buffer_size=buffer_size)


def stream_trainer(folder, sizes: list[int], buffer_size: int | None = 4, collator=None, **arguments):
    keywords = {
        "train_dataset": numbered_stream(sizes, buffer_size),
        "eval_dataset": None,
        "data_collator": collator or NumberCollator(),
    }
    return build_trainer(folder, build_model(hidden_dropout_prob=0.2), keywords, **arguments)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir")
    parser.add_argument("shards", type=json.loads)
    parser.add_argument("--arguments", type=json.loads, default={})
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    trainer = stream_trainer(args.output_dir, args.shards, **args.arguments)
    trainer.train(resume_from_checkpoint=args.resume or None)
    with open(f"{args.output_dir}/seen-{trainer.args.process_index}.json", "w", encoding="utf-8") as file:
        json.dump(trainer.data_collator.seen, file)
    if trainer.is_world_process_zero():
        save_file(weights(trainer.multimodal_model), f"{args.output_dir}/final.safetensors")
    trainer.end()


if __name__ == "__main__":
    main()
