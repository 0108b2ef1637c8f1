"""How start-up, memory and disk of a run grow with the number of rows: on Arrow, and as a stream.

    python benchmarks/data_startup.py [--rows 1000 10000 100000 1000000] [--json FILE]

The data are generated Parquet files, 8 for training: a text of 10 words, a vector of 32 numbers and a label; validation and
test have 500 rows each. A small BertWma takes them. Start-up is all that `hf-mmalign train` does from reading the recipe to
the first batch, without the import of the libraries: reading and checking the rows, a tokenizer from the texts, mean and
standard deviation of the vectors. The second run is the same again; each run is a process of its own, which then takes 100
batches of 32 rows.

Memory is the largest anonymous memory of that process (`RssAnon` of Linux: what the files that are mapped into memory take
does not count) beyond what it had after the imports. Disk is what the cache of `datasets` takes, in addition to the files.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILES, WORDS, WIDTH, OTHERS, BATCHES = 8, 10, 32, 500, 100
MODES = {"arrow": False, "stream": True}
_ANSWER = "answer: "
RECIPE = {
    "dataset": "table",
    "dataset_options": {"columns": {"text": "text", "voice": "voice"}},
    "normalize_features": True,
    "model_type": "bert_wma",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "per_device_train_batch_size": 32,
    "max_steps": BATCHES,
}


def write_data(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["".join(letters) for letters in rng.choice(list("abcdefghij"), (5000, 6))])
    for number in range(FILES):
        count = rows // FILES + (number < rows % FILES)
        pq.write_table(_table(rng, words, count), folder / f"train-{number}.parquet", row_group_size=10_000)
    for split in ("validation", "test"):
        pq.write_table(_table(rng, words, OTHERS), folder / f"{split}.parquet")


def _table(rng: np.random.Generator, words: np.ndarray, count: int) -> pa.Table:
    numbers = pa.array(rng.standard_normal(count * WIDTH, dtype=np.float32))
    offsets = pa.array(np.arange(0, count * WIDTH + 1, WIDTH, dtype=np.int32))
    return pa.table(
        {
            "text": [" ".join(chosen) for chosen in words[rng.integers(0, len(words), (count, WORDS))]],
            "voice": pa.ListArray.from_arrays(offsets, numbers),
            "label": np.array(["bad", "good"])[rng.integers(0, 2, count)],
        }
    )


def start(recipe_file: str) -> None:
    """In a process of its own: start the run, take some batches, tell seconds and memory."""
    from hf_mmalign.runs import build
    from hf_mmalign.runs.recipe import load_recipe
    from hf_mmalign.trainer.trainer import MultimodalTrainer

    memory = PeakMemory()
    begun = time.perf_counter()
    arguments = build.read_arguments(load_recipe(recipe_file))
    training = build.training_arguments(arguments.training)
    dataset = build.load_data(arguments.data)
    processor = build.build_processor(arguments, dataset)
    config = build.build_config(arguments, dataset, processor)
    build.limit_text(processor, config, arguments.data.truncation)
    build.check_data(dataset, config, processor)
    build.warn_of_texts(dataset["train"], processor, arguments)
    trainer = MultimodalTrainer(
        build.build_model(arguments.model, config),
        training,
        data_collator=build.build_collator(processor, config),
        train_dataset=build.shuffled(dataset["train"], arguments.data, training),
    )
    batches = iter(trainer.get_train_dataloader())
    next(batches)
    seconds = time.perf_counter() - begun
    for _, _ in zip(range(BATCHES - 1), batches, strict=False):
        pass
    print(_ANSWER + json.dumps({"seconds": seconds, "memory_mib": memory.stop()}), flush=True)
    os._exit(0)  # datasets waits five seconds for the readers of Parquet files


class PeakMemory:
    """Watches this process's anonymous memory, in MiB, beyond what it has now."""

    def __init__(self):
        self.first = self.peak = self._now()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _now(self) -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon"))

    def _watch(self) -> None:
        while not self.stopped.wait(0.02):
            self.peak = max(self.peak, self._now())

    def stop(self) -> float:
        self.stopped.set()
        self.thread.join()
        return self.peak - self.first


def measure(rows: int, mode: str, folder: Path) -> dict[str, Any]:
    cache = folder / f"cache-{mode}"
    recipe = folder / f"{mode}.yaml"
    values = RECIPE | {
        "dataset_path": str(folder / "data"),
        "streaming": MODES[mode],
        "output_dir": str(folder / "out"),
    }
    recipe.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    result: dict[str, Any] = {"rows": rows, "mode": mode}
    for run in ("first", "second"):
        answer = subprocess.run(
            [sys.executable, __file__, "--start", str(recipe)],
            env=os.environ | {"HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.splitlines()
        told = json.loads(next(line for line in answer if line.startswith(_ANSWER)).removeprefix(_ANSWER))
        result |= {f"{run}_{key}": value for key, value in told.items()}
    result["disk_mib"] = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) / 2**20
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--json", type=Path, help="Also write the figures there.")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        start(arguments.start)
    results = []
    print("| rows | files, MiB | | first start, s | second start, s | memory, MiB | disk, MiB |")
    print("|---:|---:|---|---:|---:|---:|---:|")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "data").mkdir()
            write_data(folder / "data", rows)
            size = sum(file.stat().st_size for file in (folder / "data").iterdir()) / 2**20
            for mode in arguments.modes:
                result = measure(rows, mode, folder) | {"files_mib": size}
                results.append(result)
                memory = max(result["first_memory_mib"], result["second_memory_mib"])
                print(
                    f"| {rows} | {size:.0f} | {mode} | {result['first_seconds']:.1f} | {result['second_seconds']:.1f} | "
                    f"{memory:.0f} | {result['disk_mib']:.0f} |",
                    flush=True,
                )
    if arguments.json:
        told = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "results": results}
        arguments.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
