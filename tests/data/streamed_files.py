"""A small table in several files, as one that is streamed is kept."""

import csv
import json
from pathlib import Path

from datasets import Dataset, DatasetDict

ROWS = {"train": 20, "validation": 6, "test": 6}


def rows_of(split: str, changed: dict[int, dict] | None = None) -> list[dict]:
    rows = []
    for number in range(ROWS[split]):
        mfcc = None if number % 5 == 4 else [[float(number + step), 1.0] for step in range(1 + number % 3)]
        row = {
            "name": f"{split} {number}",
            "tweet": None if number == 3 else f"{split} text {number}",
            "face": [float(number), 1.0, 2.0],
            "mfcc": mfcc,
            "mood": ("bad", "good")[number % 2],
        }
        rows.append(row | (changed or {}).get(number, {}))
    return rows


def write_shards(folder: Path, form: str, changed: dict[int, dict] | None = None, train_files: int = 3) -> Path:
    """Training rows in several files of different length, the other splits in one each; the folder.

    `changed` says what is different in which training row.
    """
    folder.mkdir(exist_ok=True)
    train = rows_of("train", changed)
    parts = {f"train-{number}": train[number * number * 3 : (number + 1) ** 2 * 3] for number in range(train_files)}
    parts[f"train-{train_files - 1}"] = train[(train_files - 1) ** 2 * 3 :]
    parts |= {split: rows_of(split) for split in ("validation", "test")}
    if form == "saved":
        splits = {"train": train, "validation": parts["validation"], "test": parts["test"]}
        DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()}).save_to_disk(folder)
        return folder
    for name, rows in parts.items():
        write_rows(folder / f"{name}.{form}", rows)
    return folder


def write_rows(path: Path, rows: list[dict]) -> None:
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                mfcc = "" if row["mfcc"] is None else json.dumps(row["mfcc"])
                writer.writerow(row | {"face": json.dumps(row["face"]), "mfcc": mfcc})
