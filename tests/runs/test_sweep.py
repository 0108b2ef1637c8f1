"""Variants, folds and their report; what sweeps share with single runs is in test_commands."""

import itertools
import json
import math
import pickle
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_rel

from hf_mmalign.cli.main import main
from hf_mmalign.runs.recipe import RecipeError, load_recipe
from hf_mmalign.runs.sweeps import Run, Sweep, read_sweep, run_sweep
from hf_mmalign.runs.training import write_recipe

DECALIGN = """
dataset: ravdess
model_type: decalign
hidden_size: 8
num_hidden_layers: 1
num_attention_heads: 2
num_prototypes: 2
num_train_epochs: 1
per_device_train_batch_size: 64
max_grad_norm: 0.5
robustness_seeds: [0]
missing_ratios: [0, 1]
"""
LOGISTIC = """
dataset: ravdess
model_type: mmalign_fusion
encoder: none
num_head_layers: 0
num_train_epochs: 2
robustness_seeds: [0]
missing_ratios: [0, 1]
"""


def write(folder: Path, text: str, name: str = "sweep.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, section: str, overrides: dict | None = None) -> Sweep:
    path = write(folder, DECALIGN + f"output_dir: {folder / 'out'}\n" + section)
    return read_sweep(load_recipe(path), overrides or {})


def pretend(run: Run, validation: dict[str, float], test: dict[str, float]) -> None:
    """Leave what a finished run leaves, without training."""
    write_recipe(run.folder, run.recipe)
    results = {"primary_metric": "accuracy", "train": {"seconds": 1.0}, "validation": validation, "test": test}
    write(run.folder, json.dumps(results), "results.json")


@pytest.fixture
def ravdess(tmp_path) -> Path:
    """Six actors in RAVDESS's form; the first has one take more than the others."""
    rng = np.random.default_rng(0)
    clips = {}
    for actor in range(1, 7):
        for emotion in range(1, 9):
            for repetition in range(1, 4 if actor == 1 else 3):
                name = f"01-01-{emotion:02d}-01-01-{repetition:02d}-{actor:02d}"
                clips[name] = rng.normal(emotion / 4, 1, 294)
    path = tmp_path / "au_mfcc.pkl"
    path.write_bytes(pickle.dumps(clips))
    return path


@pytest.mark.parametrize(
    ("section", "overrides", "folds"),
    [
        ("sweep: {seeds: [0]}", {}, [None]),
        ("sweep: {folds: 3}", {}, [0, 1, 2]),
        ("sweep: {folds: [0, 5]}", {}, [0, 5]),
        ("sweep: {folds: 3}", {"folds": [1]}, [1]),
    ],
)
def test_folds_are_a_number_or_a_list(tmp_path, section, overrides, folds):
    assert read(tmp_path, section, overrides).folds == folds


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("sweep: {folds: 0}", "folds is 0; expected the number of folds"),
        ("sweep: {folds: [0, one]}", "folds is .*one"),
        ("sweep: {folds: [1, 1]}", "folds names one twice"),
        ("sweep: {seeds: [0, ../../x]}", r"seeds is \[0, '../../x'\]; expected a list of whole numbers"),
        ("sweep: {seeds: [0, 1, 0]}", r"seeds names one twice: \[0, 1, 0\]"),
        ("sweep: {seeds: [0], selection_seeds: [1, 1]}", "selection_seeds names one twice"),
        ("sweep: {fold: 1}", r"sweep.yaml: sweep has the unknown keys \['fold'\]"),
        ("sweep: {variants: {a: , b: }, reference: c}", r"reference is 'c'; expected one of the variants \['a', 'b'\]"),
        ("sweep: {variants: {a: }, reference: [a]}", r"reference is \['a'\]; expected one of"),
        ("sweep: {variants: {mlp: fusion.yaml}}", "the variant 'mlp' is 'fusion.yaml'; expected"),
        ("sweep: {variants: {mlp: {base: fusion.yaml}}}", "fusion.yaml: No such file"),
        ("sweep: {variants: {mlp: {num_prototype: 3}}}", "variant mlp: unknown key 'num_prototype'"),
        (
            "sweep: {variants: {mlp: {model_type: mmalign_fusion}}}",
            "variant mlp: mmalign_fusion has no key 'num_hidden_layers'",
        ),
        ("sweep: {variants: {mlp: {drop: [num_heads]}}}", "variant mlp: drop has 'num_heads', which is not set there"),
    ],
)
def test_what_is_wrong_in_a_section_is_named(tmp_path, section, message):
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, section)


def test_a_variant_may_start_from_another_recipe(tmp_path):
    write(tmp_path, LOGISTIC, "fusion/logistic.yaml")
    section = "sweep: {variants: {decalign: {}, linear: {base: fusion/logistic.yaml, learning_rate: [0.1, 1.0]}}}"
    sweep = read(tmp_path, section, {"dataset_path": "elsewhere", "seed": 0})
    decalign, linear = (variant.recipe.values for variant in sweep.variants)
    assert (decalign["model_type"], linear["model_type"]) == ("decalign", "mmalign_fusion")
    assert "num_prototypes" not in linear
    assert linear["dataset_path"] == decalign["dataset_path"] == "elsewhere"  # the command line wins everywhere
    assert [dict(cell.values) for cell in sweep.variants[1].cells] == [{"learning_rate": 0.1}, {"learning_rate": 1.0}]
    assert sweep.seeds == [0]
    # Relative to the file that holds the section, from wherever the section is inherited.
    child = write(tmp_path, "base: ../sweep.yaml\nsweep:\n", "children/child.yaml")
    assert read_sweep(load_recipe(child), {}).variants[1].recipe.values["model_type"] == "mmalign_fusion"


def test_a_variant_of_another_model_drops_keys(tmp_path):
    drop = "drop: [num_hidden_layers, num_attention_heads, num_prototypes]"
    section = f"sweep: {{variants: {{decalign: , fusion: {{model_type: mmalign_fusion, {drop}}}}}}}"
    sweep = read(tmp_path, section)
    runs = [Run(sweep, variant, variant.cells[0], seed=0, fold=None) for variant in sweep.variants]
    decalign, fusion = (run.recipe.values for run in runs)
    assert decalign["num_prototypes"] == 2
    assert "num_prototypes" not in fusion
    assert "drop" not in fusion


def test_a_fold_joins_the_reader_s_other_options(tmp_path):
    section = "dataset_options: {folds: 3}\nsweep: {folds: 2, seeds: [4]}"
    sweep = read(tmp_path, section)
    run = Run(sweep, sweep.variants[0], sweep.variants[0].cells[0], seed=4, fold=1)
    assert run.recipe.values["dataset_options"] == {"folds": 3, "fold": 1}
    assert run.folder == tmp_path / "out" / "sweep" / "fold=1" / "seed=4"


# Accuracies by fold and learning rate, (validation, test), of seed 0; seed 1 is 0.1 better on test.
GRID = {
    (0, 0.1): (0.6, 0.3), (0, 1.0): (0.5, 0.9),
    (1, 0.1): (0.4, 0.8), (1, 1.0): (0.7, 0.2),
    (2, 0.1): (0.9, 0.5), (2, 1.0): (0.1, 0.6),
}  # fmt: skip


def test_every_fold_selects_on_its_own_validation_split(tmp_path):
    section = "sweep: {folds: 3, seeds: [0, 1], selection_seeds: [0], variants: {mine: {learning_rate: [0.1, 1.0]}}}"
    sweep = read(tmp_path, section, {"robustness": False})
    (variant,) = sweep.variants
    for (fold, rate), (validation, test) in GRID.items():
        for seed in (0, 1):
            cell = next(cell for cell in variant.cells if dict(cell.values)["learning_rate"] == rate)
            test_scores = {"accuracy": test + 0.1 * seed, "f1_macro": math.nan if fold else 1.0}
            pretend(Run(sweep, variant, cell, seed, fold), {"accuracy": validation}, test_scores)
    run_sweep(sweep)  # nothing is left to train
    outcome = json.loads((tmp_path / "out" / "sweep.json").read_text())
    mine = outcome["variants"]["mine"]
    assert {fold: entry["selected"]["learning_rate"] for fold, entry in mine["folds"].items()} == {
        "0": 0.1, "1": 1.0, "2": 0.1
    }  # fmt: skip
    folds = [0.35, 0.25, 0.55]  # the mean over the seeds, then over the folds
    accuracy = mine["scores"]["test"]["accuracy"]
    assert accuracy["values"] == pytest.approx(folds)
    assert (accuracy["mean"], accuracy["std"]) == pytest.approx((fmean(folds), stdev(folds)))
    assert mine["scores"]["test"]["f1_macro"]["mean"] is None
    assert [cell["validation"] for cell in mine["grid"]] == pytest.approx(
        [fmean([0.6, 0.4, 0.9]), fmean([0.5, 0.7, 0.1])]
    )
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "learning_rate = 0.1 in fold 0, 2; learning_rate = 1.0 in fold 1 (best of 2 on each fold's own" in text
    assert "over the folds 0, 1, 2; each fold is the mean of training seeds 0, 1." in text
    assert "0.383 ± 0.153" in text


# Test accuracies by variant, seed and fold; with folds, the differences to plain are of the means over the seeds.
PAIRED = {
    "plain": {0: (0.50, 0.70, 0.60, 0.90), 1: (0.60, 0.80, 0.50, 0.90)},
    "wma": {0: (0.53, 0.71, 0.63, 0.92), 1: (0.62, 0.83, 0.52, 0.91)},
}


def pretend_pairs(sweep: Sweep) -> None:
    """Finished runs with these scores; without folds, seeds 2, 3, … have those of the next fold."""
    for variant in sweep.variants:
        for cell, fold, seed in itertools.product(variant.cells, sweep.folds, sweep.seeds):
            accuracy = PAIRED[variant.name][seed % 2][seed // 2 if fold is None else fold]
            scores = {"loss": 1.0, "loss_task": 1.0, "f1_macro": 1 - accuracy, "accuracy": accuracy}
            pretend(Run(sweep, variant, cell, seed, fold), {"accuracy": 0.5}, scores)


@pytest.mark.parametrize(
    ("section", "pairs", "unit"),
    [
        ("seeds: [0, 1], folds: 4, selection_seeds: [0]", [[(0, f), (1, f)] for f in range(4)], "folds"),
        ("seeds: [0, 1, 2, 3, 5]", [[(0, 0)], [(1, 0)], [(0, 1)], [(1, 1)], [(1, 2)]], "training seeds"),
    ],
)
def test_the_report_gives_paired_differences_to_the_reference(tmp_path, section, pairs, unit):
    variants = "variants: {wma: {learning_rate: [0.1, 1.0]}, plain: {}}"
    sweep = read(tmp_path, f"sweep: {{{section}, {variants}, reference: plain}}", {"robustness": False})
    pretend_pairs(sweep)
    outcome = run_sweep(sweep)
    wma, plain = ([fmean(PAIRED[name][s][f] for s, f in pair) for pair in pairs] for name in ("wma", "plain"))
    test = ttest_rel(wma, plain)
    assert test.pvalue < 0.05, "or the bold below proves nothing"
    differences = [one - other for one, other in zip(wma, plain, strict=True)]
    assert outcome["reference"] == "plain"
    assert "difference" not in outcome["variants"]["plain"]
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())["variants"]["wma"]["difference"]["accuracy"]
    assert found["n"] == len(pairs)
    assert found["values"] == pytest.approx(differences)
    assert (found["mean"], found["std"]) == pytest.approx((fmean(differences), stdev(differences)))
    assert found["interval"] == pytest.approx(list(test.confidence_interval(0.95)))
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert f"| difference to plain, n = {len(pairs)} | accuracy ↑ | F1 macro ↑ |" in " ".join(text.split())
    assert f"**+{fmean(differences):.3f} ± {stdev(differences):.3f}**" in text
    assert f"**{fmean(wma):.3f} ± {stdev(wma):.3f}**" in text, "better by more than the pairs' spread"
    assert f"**{1 - fmean(wma):.3f}" not in text, "worse by more than that"
    assert f"over n = {len(pairs)} {unit}" in text


def test_the_report_shows_every_metric_and_the_tuning_budget(tmp_path):
    section = "sweep: {{seeds: [0], variants: {{plain: {{learning_rate: {}}}, wma: {{learning_rate: [0.1, 1.0]}}}}}}"
    for budget, rates in ((1, "[0.1]"), (2, "[0.1, 0.5]")):
        folder = tmp_path / str(budget)
        folder.mkdir()
        sweep = read(folder, section.format(rates), {"robustness": False})
        pretend_pairs(sweep)
        outcome = run_sweep(sweep)
        assert [variant["cells"] for variant in outcome["variants"].values()] == [budget, 2]
        text = (folder / "out" / "sweep.md").read_text()
        assert ("**Unequal tuning budgets** (cells tried: plain 1, wma 2)" in text) == (budget == 1)
        lines = [" ".join(line.split()) for line in text.splitlines()]
        assert "| variant | accuracy ↑ | F1 macro ↑ |" in lines, "the primary one first, and no losses"
        assert "| wma | 0.530 | 0.470 |" in lines
        assert any("Nothing is bold: a difference to plain" in line for line in lines), "the first variant by default"


def test_the_command_line_may_name_the_reference(tmp_path):
    assert read(tmp_path, "sweep: {variants: {a: , b: }, reference: a}", {"reference": "b"}).reference == "b"


def test_a_comparison_over_folds_end_to_end(tmp_path, ravdess, capsys):
    out = tmp_path / "out"
    section = "sweep: {folds: [0, 2], seeds: [0], variants: {decalign: {}, linear: {base: logistic.yaml}}}"
    path = write(tmp_path, DECALIGN + f"dataset_options: {{folds: 3}}\noutput_dir: {out}\n" + section)
    write(tmp_path, LOGISTIC + "dataset_options: {folds: 3}\n", "logistic.yaml")
    command = ["sweep", str(path), "--dataset_path", str(ravdess), "--disable_tqdm", "true"]
    assert main(command) == 0
    assert "linear**: recipe logistic.yaml" in capsys.readouterr().out
    outcome = json.loads((out / "sweep.json").read_text())
    table = {(entry["method"], entry["kind"], entry["modality"]): entry for entry in outcome["robustness"]["scores"]}
    metric, sizes = outcome["robustness"]["metric"], set()
    for name in ("decalign", "linear"):
        clean = []
        for fold in (0, 2):
            folder = out / name / f"fold={fold}" / "seed=0"
            assert yaml.safe_load((folder / "recipe.yaml").read_text())["dataset_options"] == {"folds": 3, "fold": fold}
            report = json.loads((folder / "robustness.json").read_text())
            clean.append(report["conditions"][0]["metrics"][metric]["mean"])
            sizes.add(report["settings"]["num_samples"])
        assert table[name, "clean", None]["values"] == pytest.approx(clean)
        assert table[name, "clean", None]["values"] == outcome["variants"][name]["scores"]["test"][metric]["values"]
        assert table[name, "clean", None]["std"] == pytest.approx(stdev(clean))
        assert len(table[name, "missing", "mfcc"]["values"]) == 2
    assert len(sizes) == 2  # folds of unequal size are no obstacle
    assert (out / "robustness.png").exists()
    # Called again, nothing is trained.
    assert main(command) == 0
    assert "== Run" not in capsys.readouterr().out


def test_variants_without_common_conditions_still_get_a_report(tmp_path, ravdess):
    section = "sweep: {seeds: [0], variants: {both: {}, voice: {modalities: mfcc}}}"
    path = write(tmp_path, LOGISTIC + f"dataset_options: {{folds: 3}}\noutput_dir: {tmp_path / 'out'}\n" + section)
    assert main(["sweep", str(path), "--dataset_path", str(ravdess), "--disable_tqdm", "true"]) == 0
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "no common conditions" in text
    assert "| voice" in text
    assert "scores" in json.loads((tmp_path / "out" / "sweep.json").read_text())["variants"]["voice"]
