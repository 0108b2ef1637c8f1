"""Every code block of README.md runs, as it stands, in a folder where what it names exists in small (readme_home.py).

Python blocks are one script: they run in order, in one namespace, in a process of its own that takes a loopback Hub for
the Hub. YAML blocks are read as recipes. Of shell blocks each command is known below: it is run with arguments that keep it
short, or, where it takes hours or the network, only read. What is not known fails.
"""

import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest

from hf_mmalign.cli.main import main
from hf_mmalign.runs import efficiency_table
from hf_mmalign.runs.build import read_arguments
from hf_mmalign.runs.packaged_recipes import recipes_folder
from hf_mmalign.runs.recipe import load_recipe
from tests.loopback_hub import loopback_hub
from tests.readme_home import furnish, picture

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SHORT = ["--num_train_epochs", "1", "--robustness_seeds", "0", "--missing_ratios", "1"]
# By the words before its first option: what is added to a command when it is run.
RUN = {
    "hf-mmalign data inspect table reviews.csv": [],
    "hf-mmalign train reviews.yaml": SHORT,
    "hf-mmalign sweep reviews.yaml": SHORT,
    "hf-mmalign robustness runs/reviews": SHORT[2:],
    "hf-mmalign efficiency runs/reviews": ["--samples", "2", "--batch_size", "2", "--train_steps", "1"],
    "hf-mmalign predict runs/reviews new.csv": [],
    "hf-mmalign data extract reviews.csv": [],
    "hf-mmalign data extract PATH/TO/mvsa-single": [],
    "hf-mmalign sweep fusion/mvsa-single-linear": SHORT,
    "hf-mmalign sweep wma/mvsa-single": SHORT,
    "hf-mmalign predict runs/mvsa-linear/mvsa-single-linear/weight_decay=0.3/seed=0 mvsa-features/test": [],
}
# Measurements of half an hour: every argument is checked, nothing is measured.
READ = {"hf-mmalign efficiency def-aaf/efficiency"}


@dataclass
class Block:
    language: str
    line: int  # of its first line in README.md
    text: str


def blocks() -> list[Block]:
    found = re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", README, flags=re.MULTILINE)
    return [Block(match[1], README[: match.start(2)].count("\n") + 1, match[2]) for match in found]


def of_language(language: str) -> list:
    return [pytest.param(block, id=f"line {block.line}") for block in blocks() if block.language == language]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    furnish(folder)
    for block in blocks():
        name = re.match(r"# (\S+\.yaml)$", block.text.partition("\n")[0])
        if name:
            (folder / name[1]).write_text(block.text, encoding="utf-8")
    return folder


def test_no_block_is_of_another_language():
    assert README.count("\n```") == 2 * len(blocks())
    assert {block.language for block in blocks()} == {"python", "yaml", "bash"}


SCRIPT = """
import json, sys

readme, found = json.load(sys.stdin)
namespace = {"__name__": "__main__"}
for line, text in found:
    exec(compile("\\n" * (line - 1) + text, readme, "exec"), namespace)
"""
# What the comments of README's lines promise.
PROMISED = """
(best, other), = [classify({"text": "so happy today", "image": "photo.jpg"}, top_k=2)]
assert {best["label"], other["label"]} == {"sad", "happy"} and best["score"] >= other["score"], (best, other)
assert type(classify.model).__name__ == "ViltWmaForSequenceClassification"
assert batch["pixel_values"].shape[0] == 2 and set(data) == {"train", "validation", "test"}
assert line["modalities"] == ["text"] and set(outcome.results["variants"]) == {"smoke-bert"}
assert run.folder.name == "digits-views-mmalign_fusion"
assert (lower_bound <= value + 1e-6).all() and text_tokens.grad is not None
assert abs(float(joint.plan.sum()) - 1) < 1e-4
"""


def test_python_from_raw_rows_to_a_prediction(home):
    found = [[block.line, block.text] for block in blocks() if block.language == "python"]
    assert len(found) > 5
    with loopback_hub() as hub:
        picture(np.random.default_rng(1)).save(home / "elsewhere.jpg")
        hub.repositories["me/pictures"] = {"photo.jpg": (home / "elsewhere.jpg").read_bytes()}
        # The embedded data sets need not be made anew.
        cache = {"HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE)}
        environment = hub.environment(home / "hub") | cache | {"PYTHONPATH": str(ROOT)}
        address = f"{environment['HF_ENDPOINT']}/me/pictures/resolve/main/photo.jpg"
        assert sum(text.count("https://…/photo.jpg") for _, text in found) == 1
        found = [[line, text.replace("https://…/photo.jpg", address)] for line, text in found]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps([str(ROOT / "README.md"), [*found, [1, PROMISED]]]),
            cwd=home, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert {"config.json", "model.safetensors", "README.md", "processor_config.json"} <= set(
        hub.repositories["me/moods"]
    )
    assert (home / "runs" / "moods" / "robustness.md").read_text(encoding="utf-8") in done.stdout
    assert {"robustness.json", "robustness.md", "robustness.png"} <= {
        path.name for path in (home / "runs/moods").iterdir()
    }
    assert (home / "runs" / "smoke" / "evaluation_validation.json").exists()
    assert (home / "runs" / "alphas" / "sweep.md").read_text(encoding="utf-8") in done.stdout


@pytest.mark.parametrize("block", of_language("yaml"))
def test_recipes_can_be_used(block, tmp_path):
    shutil.copytree(recipes_folder() / "wma", tmp_path, dirs_exist_ok=True)  # those that a `base` is relative to
    (tmp_path / "readme.yaml").write_text(block.text, encoding="utf-8")
    read_arguments(load_recipe(tmp_path / "readme.yaml"))


def commands(block: Block) -> list[list[str]]:
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [word for line in lines for word in (*shlex.split(line, comments=True), "&&")]
    found: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            found.append([])
        else:
            found[-1].append(word)
    return [command for command in found if command]


@pytest.mark.parametrize("block", of_language("bash"))
def test_commands(block, home, monkeypatch):
    monkeypatch.chdir(home)
    for command in commands(block):
        CHECKS.get(command[0], unknown)(command, monkeypatch)


class ReadError(Exception):
    """A study was read and found good, and is not run."""


def stop(*what) -> None:
    raise ReadError


def unknown(command: list[str], monkeypatch) -> None:
    pytest.fail(f"README has `{shlex.join(command)}`, and this file does not say how that is tested")


def check_ours(command: list[str], monkeypatch) -> None:
    first_option = next((place for place, word in enumerate(command) if word.startswith("--")), len(command))
    name = " ".join(command[:first_option])
    if name in RUN:
        assert main([*command[1:], *RUN[name]]) == 0
        after = dict(pairwise(command))
        assert all(Path(after[option]).exists() for option in ("--output", "--output_dir") if option in after)
    elif name in READ:
        with monkeypatch.context() as patch:
            patch.setattr(efficiency_table, "measure", stop)
            with pytest.raises(ReadError):
                main(command[1:])
    else:
        unknown(command, monkeypatch)


def check_make(command: list[str], monkeypatch) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(command[1:]) <= set(targets)


def check_benchmark(command: list[str], monkeypatch) -> None:
    """A measurement of minutes: the program and its options are there."""
    text = io.StringIO()
    with monkeypatch.context() as patch, redirect_stdout(text):
        patch.setattr(sys, "argv", [command[1], "--help"])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / command[1]), run_name="__main__")
    assert not end.value.code
    assert [word for word in command if word.startswith("--") and word not in text.getvalue()] == []


def check_pip(command: list[str], monkeypatch) -> None:
    """What it installs is what the script after it asks for."""
    script = (ROOT / "benchmarks" / "encoders_without_a_hub.py").read_text(encoding="utf-8")
    assert command[1] == "install"
    assert all(f'"{name}"' in script for name in command[2:])


def check_clone(command: list[str], monkeypatch) -> None:
    assert command == ["git", "clone", "<this", "repository>"]


def check_folder(command: list[str], monkeypatch) -> None:
    assert command == ["cd", "hf-mmalign"]


CHECKS = {
    "hf-mmalign": check_ours,
    "make": check_make,
    "pip": check_pip,
    "python": check_benchmark,
    "git": check_clone,
    "cd": check_folder,
}


def test_the_table_of_commands_is_that_of_the_help(capsys):
    rows = re.findall(r"^\| `(hf-mmalign [^`]+)` \|", README, flags=re.MULTILINE)
    assert len(rows) >= 10
    for row in rows:
        words = re.match(r"hf-mmalign ((?:[a-z-]+ ?)+)(?= |$)", row)[1].split()
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert [option for option in re.findall(r"--\w+", row) if option not in text and "any" not in option] == []
