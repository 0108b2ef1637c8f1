"""What Wasserstein Modality Alignment adds to a training step of ViLT-B/32.

    python benchmarks/wma_overhead.py [--device cuda --dtype bfloat16 --batch-size 64] [--json FILE]

The model has the architecture of ViLT-B/32 with random weights; a batch holds 40 text tokens and 384×384 pictures. A step
is forward, backward and AdamW update, with α > 0 and with α = 0 on the same model. Repeats alternate the order (with,
without, without, with, …), so that a drift of the machine's speed cancels; the ratio is the median over pairs.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from hf_mmalign import ViltWmaConfig, ViltWmaForSequenceClassification


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="autocast type")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=8, help="pairs of steps")
    parser.add_argument("--solvers", nargs="+", default=["auto", "ipot"])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def make_batch(batch_size: int, device: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1000, 30000, (batch_size, 40), generator=generator)
    input_ids[:, 0], input_ids[:, -1] = 101, 102
    batch = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.randn(batch_size, 3, 384, 384, generator=generator),
        "pixel_mask": torch.ones(batch_size, 384, 384, dtype=torch.long),
        "labels": torch.randint(0, 2, (batch_size,), generator=generator),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def measure(solver: str, arguments: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    config = ViltWmaConfig(num_labels=2, wma_alpha=1.0, wma_beta=1.0, wma_solver=solver)
    model = ViltWmaForSequenceClassification(config).to(arguments.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    batch = make_batch(arguments.batch_size, arguments.device)
    model.calibrate([batch])
    dtype = getattr(torch, arguments.dtype)

    def step(with_wma: bool) -> float:
        model.wma.active = with_wma
        _synchronize(arguments.device)
        start = time.perf_counter()
        with torch.autocast(arguments.device, dtype=dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        _synchronize(arguments.device)
        return time.perf_counter() - start

    for with_wma in (True, False):
        step(with_wma)
    pairs = []
    for repeat in range(arguments.repeats):
        order = (True, False) if repeat % 2 == 0 else (False, True)
        seconds = {with_wma: step(with_wma) for with_wma in order}
        pairs.append((seconds[True], seconds[False]))
    ratios = sorted(with_wma / without for with_wma, without in pairs)
    return {
        "with_ms": 1e3 * statistics.median(pair[0] for pair in pairs),
        "without_ms": 1e3 * statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    arguments = parse_arguments()
    where = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else f"{platform.machine()} CPU"
    print(
        f"ViLT-B/32, B = {arguments.batch_size}, {arguments.dtype}, {where}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {arguments.repeats} pairs\n"
    )
    print("| solver | with WMA, ms | without, ms | ratio (median) | ratio (min–max) |\n|---|---|---|---|---|")
    results = {}
    for solver in arguments.solvers:
        result = results[solver] = measure(solver, arguments)
        print(
            f"| {solver} | {result['with_ms']:.0f} | {result['without_ms']:.0f} | {result['ratio']:.4f} | "
            f"{result['ratio_min']:.4f}–{result['ratio_max']:.4f} |",
            flush=True,
        )
    if arguments.json:
        settings = {key: str(value) for key, value in vars(arguments).items() if key != "json"}
        arguments.json.write_text(json.dumps({"settings": settings, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
