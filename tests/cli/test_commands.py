"""The command, end to end on the embedded data."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, ViltModel, ViltProcessor

from hf_mmalign import MultimodalProcessor
from hf_mmalign.cli.main import main
from tests.runs.test_recipe import RECIPES

ROOT = Path(__file__).resolve().parents[2]
SMOKE = str(ROOT / "recipes/wma/smoke.yaml")
SMALL = ["--max_train_samples", "64", "--max_eval_samples", "32", "--logging_steps", "1", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    told = ["--license", "mit", "--dataset_name", "Digits with captions"]
    assert main(["train", SMOKE, "--output_dir", str(folder), *SMALL, *told]) == 0
    return folder


@pytest.mark.parametrize(
    "path",
    [path for path in RECIPES if path.stem.startswith("smoke")],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_every_smoke_recipe_runs(path, tmp_path):
    assert main(["train", str(path), "--output_dir", str(tmp_path), *SMALL]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    of_translations = {"signatures"} if path.parent.name == "translation" else set()
    assert set(results) == {"primary_metric", "train", "validation", "test"} | of_translations


def test_contributions_are_logged_and_a_run_goes_on_with_them(tmp_path):
    recipe = str(ROOT / "recipes/cal/smoke.yaml")
    short = ["--robustness", "false", "--modulation_update_steps", "1", "--save_total_limit", "5"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(["train", recipe, "--output_dir", str(whole), *SMALL, *short]) == 0
    log = json.loads((whole / "trainer_state.json").read_text())["log_history"]
    entry = [entry for entry in log if "loss" in entry][-1]
    names = ("phi", "performance", "potential", "contribution", "coefficient", "beta")
    assert {f"{name}_{modality}" for name in names for modality in ("top", "bottom", "zones")} <= entry.keys()
    assert sum(entry[f"coefficient_{modality}"] for modality in ("top", "bottom", "zones")) == pytest.approx(1)
    assert entry["learning_rate_zones"] == pytest.approx(1e-2 * entry["learning_rate"])
    assert "gradient_modulation" in (whole / "README.md").read_text()
    # A run killed after its first epoch.
    shutil.copytree(whole / "checkpoint-2", stopped / "checkpoint-2")
    again = ["--resume_from_checkpoint", "true"]
    assert main(["train", recipe, "--output_dir", str(stopped), *SMALL, *short, *again]) == 0
    resumed = json.loads((stopped / "trainer_state.json").read_text())["log_history"]
    found = [{key: e[key] for key in entry} for e in resumed if "loss" in e][-1]
    assert found == pytest.approx(entry, rel=1e-4)


def test_regression_on_another_target(tmp_path):
    recipe = str(ROOT / "recipes/wma/smoke-bert.yaml")
    target = ["--dataset_options", "{label_column: target}", "--robustness", "false"]
    assert main(["train", recipe, "--output_dir", str(tmp_path), *SMALL, *target]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["primary_metric"] == "mae"
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == "regression"


def test_unlabelled_test_rows_are_no_obstacle(tmp_path):
    from PIL import Image

    data = tmp_path / "memes"
    (data / "img").mkdir(parents=True)
    for split, labelled in (("train", True), ("dev", True), ("test", False)):
        rows = []
        for index in range(8):
            name = f"img/{split}{index}.png"
            Image.new("RGB", (32, 32), (index * 30, 0, 0)).save(data / name)
            row = {"id": index, "img": name, "text": f"caption number {index}"}
            rows.append(json.dumps(row | ({"label": index % 2} if labelled else {})))
        (data / f"{split}.jsonl").write_text("\n".join(rows))
    out = tmp_path / "out"
    source = ["--dataset", "image-text", "--dataset_path", str(data)]
    assert main(["train", SMOKE, "--output_dir", str(out), *SMALL, *source]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["test"] == {}
    assert "auroc" in results["validation"]
    assert json.loads((out / "robustness.json").read_text())["settings"]["num_samples"] == 8


def test_a_run_leaves_everything_that_loading_needs(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        "config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "processor_config.json",
        "README.md", "recipe.yaml", "results.json", "robustness.json", "robustness.md", "robustness.png", "training.png",
    }  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(trained)
    assert not model.wma.reference.isnan().any()
    processor = MultimodalProcessor.from_pretrained(trained)
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    logits = model(**processor(text=["the digit is seven"], images=[picture])).logits
    assert logits.shape == (1, 2)
    assert model.config.id2label.keys() == {0, 1}


def test_the_card_says_of_licence_and_data_what_the_command_line_does(trained):
    card = (trained / "README.md").read_text()
    assert "\nlicense: mit\n" in card
    assert "trained on Digits with captions with" in card


def test_a_card_of_a_recipe_that_says_nothing_has_no_licence(tmp_path):
    assert main(["train", SMOKE, "--output_dir", str(tmp_path), *SMALL, "--robustness", "false"]) == 0
    metadata = (tmp_path / "README.md").read_text().split("---")[1]
    assert "license:" not in metadata
    assert "datasets:" not in metadata


def test_stock_transformers_loads_the_saved_folder(trained):
    text, pictures = ["a seven"], torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    inputs = ViltProcessor.from_pretrained(trained)(list(pictures), text, return_tensors="pt")
    stock = ViltModel.from_pretrained(trained).eval()
    ours = AutoModelForSequenceClassification.from_pretrained(trained).eval()
    hidden = ours.encode(ours.embed_modalities(**inputs))[0].last_hidden_state
    torch.testing.assert_close(stock(**inputs).pooler_output, ours._pool(hidden), atol=1e-5, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(trained).cls_token_id == ours.config.cls_token_id


def test_evaluate_repeats_the_reported_metrics(trained, capsys):
    assert main(["evaluate", str(trained), "--split", "test"]) == 0
    assert "auroc" in capsys.readouterr().out
    again = json.loads((trained / "evaluation_test.json").read_text())
    reported = json.loads((trained / "results.json").read_text())["test"]
    assert again["accuracy"] == pytest.approx(reported["accuracy"])
    assert again["loss"] == pytest.approx(reported["loss"], rel=1e-4)


def test_robustness_of_a_saved_folder(trained, capsys):
    assert main(["robustness", str(trained), "--robustness_seeds", "3", "--noise_amplitude", "0.5"]) == 0
    assert "image noise 0.5" in capsys.readouterr().out
    report = json.loads((trained / "robustness.json").read_text())
    assert report["settings"]["seeds"] == [3]


def test_robustness_of_a_saved_folder_against_noise_on_raw_inputs(trained, capsys):
    told = ["--protocol", "qmf", "--epsilons", "0", "5", "--robustness_seeds", "0", "--noise_amplitude", "null"]
    assert main(["robustness", str(trained), *told]) == 0
    shown = capsys.readouterr().out
    for row in ("text words-replaced ε=5", "image gaussian ε=5", "image salt-pepper ε=5", "all gaussian ε=5"):
        assert row in shown
    assert "image noise" not in shown
    report = json.loads((trained / "robustness.json").read_text())
    assert (report["settings"]["protocol"], report["settings"]["epsilons"]) == ("qmf", [5.0])
    assert main(["robustness", str(trained), "--protocol", "published"]) == 2
    assert "expected 'clean' or 'qmf'" in capsys.readouterr().err
    assert main(["robustness", str(trained), "--protocol", "qmf", "--epsilons", "0"]) == 2
    assert "epsilons is [0.0]" in capsys.readouterr().err


def test_a_recipe_trains_and_tests_with_noise_on_raw_inputs(tmp_path, capsys):
    noise = [
        "--train_noise",
        "{protocol: clean, kind: salt-pepper, epsilon: 10}",
        "--protocol",
        "clean",
        "--epsilons",
        "10",
    ]
    small = ["--robustness_seeds", "0", "--noise_amplitude", "null"]
    assert main(["train", SMOKE, "--output_dir", str(tmp_path), *SMALL, *noise, *small]) == 0
    assert "image salt-pepper ε=10" in (tmp_path / "robustness.md").read_text()
    assert "train_noise" in (tmp_path / "README.md").read_text()
    capsys.readouterr()
    bad = ["--train_noise", "{protocol: clean, kind: salt, epsilon: 10}"]
    assert main(["train", SMOKE, "--output_dir", str(tmp_path / "bad"), *SMALL, *bad]) == 2
    assert "train_noise: kind is one of" in capsys.readouterr().err


def test_a_finished_folder_is_not_overwritten(trained, capsys):
    before = (trained / "model.safetensors").read_bytes()
    assert main(["train", SMOKE, "--output_dir", str(trained), *SMALL]) == 2
    assert "--resume_from_checkpoint true" in capsys.readouterr().err
    assert (trained / "model.safetensors").read_bytes() == before


def test_sweep_selects_on_validation_and_goes_on_after_a_kill(tmp_path, capsys):
    command = ["sweep", SMOKE, "--output_dir", str(tmp_path), *SMALL, "--num_train_epochs", "1"]
    command += ["--wma_alpha", "0.1", "1", "--wma_beta", "0.5", "1.5", "--seed", "0", "1"]
    assert main(command) == 0
    outcome = json.loads((tmp_path / "sweep.json").read_text())
    variant = outcome["variants"]["smoke"]
    assert len(variant["grid"]) == 4
    best = max(variant["grid"], key=lambda cell: cell["validation"])["validation"]
    chosen = [cell for cell in variant["grid"] if {k: cell[k] for k in variant["selected"]} == variant["selected"]]
    assert chosen[0]["validation"] == best
    assert set(variant["runs"]) == {"0", "1"}
    assert (tmp_path / "grid-smoke.png").exists()
    table = (tmp_path / "sweep.md").read_text()
    assert "text missing" in table
    # Called again, nothing is trained; with one run lost, only that one is.
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results.json")}
    assert len(finished) == 5
    lost = next(iter(sorted(finished)))
    lost.unlink()
    capsys.readouterr()
    assert main(command) == 0
    assert "Run 1 of 1" in capsys.readouterr().out
    assert {path for path, time in finished.items() if path.stat().st_mtime_ns == time} == set(finished) - {lost}
    assert (tmp_path / "sweep.md").read_text().split("training")[0] == table.split("training")[0]


@pytest.mark.slow
def test_sweep_in_parallel_gives_the_same_table(tmp_path):
    command = ["sweep", SMOKE, *SMALL, "--seed", "0", "1", "--robustness", "false"]
    for jobs in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "hf_mmalign.cli.main", *command, "--output_dir", str(tmp_path / jobs), "--jobs", jobs],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (json.loads((tmp_path / jobs / "sweep.json").read_text())["variants"]["smoke"]["runs"] for jobs in "12")
    losses = [{seed: run["test"]["loss"] for seed, run in runs.items()} for runs in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # another number of threads rounds otherwise


def test_lora_run_is_saved_as_a_whole_model(tmp_path):
    assert main(["train", SMOKE, "--output_dir", str(tmp_path), *SMALL, "--use_peft", "--robustness", "false"]) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert not model.wma.reference.isnan().any()
    assert main(["evaluate", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "evaluation_test.json").read_text())
    assert again["loss"] == pytest.approx(json.loads((tmp_path / "results.json").read_text())["test"]["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train", SMOKE, "--wma_aplha", "1"], "Did you mean 'wma_alpha'"),
        (["train", SMOKE, "--learning_rate", "fast"], "learning_rate is 'fast'"),
        (["train", SMOKE, "--modalities", "text", "smell"], "smell"),
        (["train", SMOKE, "--dataset", "digits"], "digits"),
        (["train", SMOKE, "--metric_for_best_model", "acc7"], "metric_for_best_model is acc7, and this task has"),
        (["train", SMOKE, "--model_name_or_path", "no/such/folder"], "no/such/folder"),
        (["evaluate", "."], "recipe.yaml"),
        (["robustness", "no-folder"], "no-folder"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "train":
        arguments = [*arguments, "--output_dir", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    # Above the line, on a machine's first run, is the progress of generating the data set.
    assert error.splitlines()[-1].startswith("hf-mmalign: ")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_help_imports_nothing_heavy():
    for words in (
        ["--help"],
        ["train", "--help"],
        ["sweep", "--help"],
        ["data", "inspect", "--help"],
        ["data", "extract", "--help"],
    ):
        code = (
            "import sys; from hf_mmalign.cli.main import main\n"
            f"try: main({words!r})\n"
            "except SystemExit: pass\n"
            "print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.strip().endswith("[]"), done.stdout[-300:]


def test_arguments_are_listed(capsys):
    assert main(["train", SMOKE, "--list-arguments", "--model_type", "[a]"]) == 2
    assert "the command line: model_type is ['a']; expected text" in capsys.readouterr().err
    assert main(["train", SMOKE, "--list-arguments"]) == 0
    listed = capsys.readouterr().out
    assert "wma_alpha" in listed
    assert "learning_rate" in listed
