"""A tiny training set-up that also runs as a script, for tests with several processes or a killed one.

`python -m tests.trainer.training OUTPUT_DIR [--key value …]` trains and saves weights and log; further `--arguments` train
again, into `OUTPUT_DIR/1` and so on.
"""

import argparse
import json
import os
import signal

import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset
from transformers import TrainerCallback

from hf_mmalign import (
    BertWmaConfig,
    BertWmaForSequenceClassification,
    FusionConfig,
    FusionForSequenceClassification,
    MultimodalTrainer,
    MultimodalTrainingArguments,
)
from tests.tiny import BACKBONE, TOKENS, feature_batch, rows_of, text_batch

WIDTHS = {"vision": 5, "audio": 3}


class Samples(Dataset):
    """Random sequences of ragged length, some without audio unless `complete`; with `text=False` the features only."""

    def __init__(self, size: int = 16, text: bool = True, complete: bool = False):
        generator = torch.Generator().manual_seed(3)
        draw = lambda low, high: torch.randint(low, high, (size,), generator=generator).tolist()  # noqa: E731
        audio = [length if complete or index % 5 else 0 for index, length in enumerate(draw(1, 5))]
        self.batch = text_batch(draw(3, 8), generator)
        self.batch |= feature_batch({"vision": draw(1, 6), "audio": audio}, WIDTHS, generator)
        self.batch["labels"] = torch.tensor(draw(0, 2))
        if not text:
            self.batch = {
                key: value for key, value in self.batch.items() if key in ("features", "feature_mask", "labels")
            }

    def __len__(self) -> int:
        return len(self.batch["labels"])

    def __getitem__(self, index: int) -> dict:
        return rows_of(self.batch, [index])


def collate(rows: list[dict]) -> dict:
    """Join batches of one row."""

    def join(values):
        if isinstance(values[0], dict):
            return {key: join([value[key] for value in values]) for key in values[0]}
        return torch.cat(values)

    return join(rows)


class KillAt(TrainerCallback):
    """Kill this very process, as `kill -9` does, at the end of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def build_model(**fields) -> BertWmaForSequenceClassification:
    torch.manual_seed(0)
    config = BACKBONE | TOKENS | {"num_labels": 2, "feature_sizes": WIDTHS, "wma_alpha": 5.0, "wma_beta": 1.5} | fields
    return BertWmaForSequenceClassification(BertWmaConfig(**config))


def build_fusion(**fields) -> FusionForSequenceClassification:
    torch.manual_seed(0)
    return FusionForSequenceClassification(FusionConfig(**{"feature_sizes": WIDTHS, "hidden_size": 8} | fields))


def build_trainer(output_dir, model=None, trainer_keywords=None, complete=False, **arguments) -> MultimodalTrainer:
    defaults = {
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-2,
        "optim": "adamw_torch",
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
        "seed": 1,
        "max_grad_norm": 0.0,
    }
    model = build_model() if model is None else model
    data = Samples(text="text" in model.config.modalities, complete=complete)
    keywords = {"train_dataset": data, "eval_dataset": data, "data_collator": collate} | (trainer_keywords or {})
    return MultimodalTrainer(model, MultimodalTrainingArguments(str(output_dir), **defaults | arguments), **keywords)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir")
    parser.add_argument("--arguments", type=json.loads, default=[{}], nargs="+")
    parser.add_argument("--fields", type=json.loads, default={})
    parser.add_argument("--model", choices=["bert", "fusion"], default="bert")
    parser.add_argument("--complete", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at", type=int)
    args = parser.parse_args()
    build = {"bert": build_model, "fusion": build_fusion}[args.model]
    for number, arguments in enumerate(args.arguments):
        folder = f"{args.output_dir}/{number}" if number else args.output_dir
        trainer = build_trainer(folder, build(**args.fields), complete=args.complete, **arguments)
        if args.kill_at:
            trainer.add_callback(KillAt(args.kill_at))
        trainer.train(resume_from_checkpoint=args.resume or None)
        if trainer.is_world_process_zero():
            save_file(weights(trainer.multimodal_model), f"{folder}/final.safetensors")
            if trainer.adversary is not None:
                trainer.adversary.save(folder)
            with open(f"{folder}/log.json", "w", encoding="utf-8") as file:
                json.dump(trainer.state.log_history, file)
    trainer.end()


if __name__ == "__main__":
    main()
