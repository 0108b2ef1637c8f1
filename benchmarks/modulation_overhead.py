"""What CAL adds to a training step of late fusion: two ResNet-18 on pictures of 64×64.

    python benchmarks/modulation_overhead.py [--device cuda --dtype bfloat16 --batch-size 64] [--json FILE]

The model is `FusionForSequenceClassification` with an encoder for RGB and one for depth, random weights and a head for each
modality. In one training, whole steps of the Trainer, clipping, SGD update and callbacks included, are taken by turns with
all of CAL (modulation that measures in this step, and the information bottleneck) and with nothing of it. Pairs alternate
the order, so that a drift of the machine's speed cancels; the ratio is the median over pairs. By the paper's own accounting
the contribution metric takes M ablation models beside the full one, M + 1 = 3 in all.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from hf_mmalign import FusionConfig, FusionForSequenceClassification, MultimodalTrainer, MultimodalTrainingArguments

MODALITIES = {"image": 3, "depth": 1}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="autocast type")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=64, help="height and width of the pictures")
    parser.add_argument("--repeats", type=int, default=12, help="pairs of steps")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


class Pictures(Dataset):
    """The same random batch over and over: loading is no part of what is measured."""

    def __init__(self, arguments: argparse.Namespace, steps: int):
        generator = torch.Generator().manual_seed(0)
        size = (arguments.size, arguments.size)
        draw = lambda channels: torch.randn(arguments.batch_size, channels, *size, generator=generator)  # noqa: E731
        self.steps = steps
        self.batch = {
            "pixel_values": draw(3),
            "modality_inputs": {"depth": {"pixel_values": draw(1)}},
            "labels": torch.randint(0, 10, (arguments.batch_size,), generator=generator),
        }

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict:
        return self.batch


class Turns(TrainerCallback):
    """Switches CAL on and off by turns and takes the time of each step."""

    def __init__(self, trainer: MultimodalTrainer, device: str):
        self.trainer, self.device = trainer, device
        self.modulation, self.bottleneck = trainer.modulation, trainer.model.bottleneck
        self.seconds: dict[bool, list[float]] = {True: [], False: []}

    def on_step_begin(self, args, state, control, **kwargs):
        self.with_cal = state.global_step % 4 in (0, 3)  # with, without, without, with
        self.trainer.modulation = self.modulation if self.with_cal else None
        self.trainer.model.bottleneck = self.bottleneck if self.with_cal else None
        _synchronize(self.device)
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        _synchronize(self.device)
        self.seconds[self.with_cal].append(time.perf_counter() - self.start)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    encoders = {name: {"architecture": "resnet18", "in_chans": channels} for name, channels in MODALITIES.items()}
    model = FusionForSequenceClassification(
        FusionConfig(
            encoders=encoders, num_labels=10, num_head_layers=0, dropout=0.0, unimodal_heads=True, aib_weight=0.1
        )
    )
    warm_up = 4
    steps = warm_up + 2 * arguments.repeats
    with tempfile.TemporaryDirectory() as folder:
        training = MultimodalTrainingArguments(
            folder,
            gradient_modulation="cal",
            modulation_update_steps=steps,
            optim="sgd",
            learning_rate=1e-3,
            per_device_train_batch_size=1,
            max_steps=steps,
            bf16=arguments.dtype == "bfloat16",
            use_cpu=arguments.device == "cpu",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = MultimodalTrainer(
            model, training, train_dataset=Pictures(arguments, steps), data_collator=lambda rows: rows[0]
        )
        turns = Turns(trainer, arguments.device)
        trainer.add_callback(turns)
        trainer.train()
    pairs = list(zip(turns.seconds[True], turns.seconds[False], strict=True))[warm_up // 2 :]
    ratios = sorted(with_cal / without for with_cal, without in pairs)
    return {
        "with_ms": 1e3 * statistics.median(pair[0] for pair in pairs),
        "without_ms": 1e3 * statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    arguments = parse_arguments()
    result = measure(arguments)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU"
    print(
        f"Two ResNet-18 at {arguments.size}×{arguments.size}, B = {arguments.batch_size}, {arguments.dtype}, {where}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.repeats} pairs of steps\n"
    )
    print("| with CAL, ms | without, ms | ratio (median) | ratio (min–max) | M + 1 models |\n|---|---|---|---|---|")
    print(
        f"| {result['with_ms']:.1f} | {result['without_ms']:.1f} | {result['ratio']:.3f} | "
        f"{result['ratio_min']:.3f}–{result['ratio_max']:.3f} | {len(MODALITIES) + 1} |"
    )
    if arguments.json:
        settings = {key: str(value) for key, value in vars(arguments).items() if key != "json"}
        arguments.json.write_text(json.dumps({"settings": settings, **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
