"""`hf-mmalign plot`, and the metrics a recipe chooses, end to end on tiny runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_mmalign.cli.main import main
from hf_mmalign.reporting import modality_gap
from hf_mmalign.reporting.contributions import plot_contributions
from hf_mmalign.reporting.feature_scatter import plot_feature_scatter
from hf_mmalign.runs import pictures

ROOT = Path(__file__).resolve().parents[2]
DECALIGN, WMA = str(ROOT / "recipes/decalign/smoke.yaml"), str(ROOT / "recipes/wma/smoke.yaml")
TINY = [
    "--max_train_samples", "24", "--max_eval_samples", "16", "--hidden_size", "16", "--num_hidden_layers", "1",
    "--num_train_epochs", "1", "--disable_tqdm", "true",
]  # fmt: skip
NO_ROBUSTNESS = ["--robustness", "false"]
REGRESSION = ["--dataset_options", "{label_column: target}"]


def train(folder: Path, *arguments: str, recipe: str = DECALIGN) -> Path:
    assert main(["train", recipe, "--output_dir", str(folder), *TINY, *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def emotions(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("plot") / "emotions", "--metrics", "emotion", *NO_ROBUSTNESS)


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory) -> Path:
    chosen = ["--metrics", "sentiment", "--metric_for_best_model", "acc7", "--robustness_seeds", "0"]
    return train(tmp_path_factory.mktemp("plot") / "sentiment", *REGRESSION, *chosen)


@pytest.fixture
def drawn(monkeypatch) -> list:
    """What the commands hand to the drawing functions, which draw nevertheless."""
    calls = []

    def record(draw):
        return lambda *positional, **keywords: calls.append(positional) or draw(*positional, **keywords)

    for name in ("plot_confusion_matrix", "plot_modality_gap", "plot_contributions", "plot_feature_scatter"):
        monkeypatch.setattr(pictures, name, record(getattr(pictures, name)))
    return calls


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def printed_picture(capsys) -> Path:
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert min(Image.open(path).size) > 300
    return path


def test_the_metrics_of_a_recipe_reach_results_reports_and_card(emotions, sentiment):
    assert results(emotions)["primary_metric"] == "wacc"
    assert {"wacc", "uacc", "waf1"} <= set(results(emotions)["test"])
    assert "accuracy" not in results(emotions)["test"]
    # The metric that the recipe selects by is the one that heads tables.
    assert results(sentiment)["primary_metric"] == "acc7"
    assert {"mae", "pearson", "acc2_nonzero", "f1_with_zeros", "acc5"} <= set(results(sentiment)["test"])
    report = json.loads((sentiment / "robustness.json").read_text())["settings"]
    assert (report["primary_metric"], report["greater_is_better"]) == ("acc7", True)
    assert "after clipping to ±3 and rounding" in (sentiment / "README.md").read_text()
    state = json.loads((sentiment / "trainer_state.json").read_text())
    assert state["best_metric"] == results(sentiment)["validation"]["acc7"]


def test_metrics_of_another_task_are_refused_before_training(tmp_path, capsys):
    assert main(["train", DECALIGN, "--output_dir", str(tmp_path / "run"), *TINY, "--metrics", "sims"]) == 2
    assert "metrics: sims is for regression of one target" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_confusion_of_classes(emotions, capsys, drawn):
    assert main(["plot", "confusion", str(emotions)]) == 0
    assert printed_picture(capsys) == emotions / "confusion-test.png"
    ((true, predicted, names),) = drawn
    assert names[:3] == ["zero", "one", "two"]
    assert (true == predicted).mean() == pytest.approx(results(emotions)["test"]["wacc"])


def test_confusion_of_sentiment_levels(sentiment, capsys, drawn, tmp_path):
    output = tmp_path / "pictures" / "levels.png"
    assert main(["plot", "confusion", str(sentiment), "--split", "validation", "--output", str(output)]) == 0
    assert printed_picture(capsys) == output
    assert main(["plot", "confusion", str(sentiment), "--metrics", "sims", "--output", str(output)]) == 0
    (true, predicted, levels), (*_, intervals) = drawn
    assert levels == ["−3", "−2", "−1", "0", "1", "2", "3"]
    assert (true == predicted).mean() == pytest.approx(results(sentiment)["validation"]["acc7"])
    assert len(intervals) == 5


def test_modality_gap_before_and_after_training(emotions, capsys, drawn):
    assert main(["plot", "modality-gap", str(emotions)]) == 0
    assert printed_picture(capsys) == emotions / "modality-gap-test.png"
    ((panels,),) = drawn
    assert list(panels) == ["before training", "after training"]
    assert {name: values.shape for name, values in panels["after training"].items()} == {
        "top": (16, 32), "bottom": (16, 32), "zones": (16, 32),
    }  # fmt: skip
    before, after = (modality_gap.modality_gaps(features) for features in panels.values())
    assert all(before[pair] != after[pair] for pair in before)


def test_untrained_weights_are_those_training_started_from(tmp_path, capsys, drawn):
    # At learning rate 0 the saved weights are still the initial ones.
    run = train(tmp_path / "run", "--learning_rate", "0", "--seed", "7", *NO_ROBUSTNESS)
    assert main(["plot", "modality-gap", str(run)]) == 0
    ((panels,),) = drawn
    before, after = (modality_gap.modality_gaps(features) for features in panels.values())
    assert before == pytest.approx(after)


def test_modality_gap_against_another_run_of_any_model(emotions, tmp_path, capsys, drawn):
    ablation = train(tmp_path / "ablation", "--modalities", "top", "zones", *NO_ROBUSTNESS)
    assert main(["plot", "modality-gap", str(emotions), "--before", str(ablation), "--method", "tsne"]) == 0
    assert {name: list(features) for name, features in drawn[0][0].items()} == {
        "ablation": ["top", "zones"],
        "emotions": ["top", "bottom", "zones"],
    }
    wma = train(tmp_path / "wma", "--num_attention_heads", "2", *NO_ROBUSTNESS, recipe=WMA)
    assert main(["plot", "modality-gap", str(wma)]) == 0
    assert printed_picture(capsys) == wma / "modality-gap-test.png"
    assert {name: values.shape for name, values in drawn[1][0]["after training"].items()} == {
        "text": (16, 16), "image": (16, 16),
    }  # fmt: skip


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> list[Path]:
    """Two seeds of a run with CAL, two epochs each."""
    folder = tmp_path_factory.mktemp("plot")
    small = ["--max_train_samples", "32", "--max_eval_samples", "16", "--per_device_train_batch_size", "8"]
    told = ["--logging_steps", "2", "--disable_tqdm", "true", *NO_ROBUSTNESS]
    for seed in ("0", "1"):
        assert main(["train", "cal/smoke", "--output_dir", str(folder / seed), "--seed", seed, *small, *told]) == 0
    return [folder / "0", folder / "1"]


def test_contributions_beside_scores_over_the_epochs_of_several_seeds(seeds, capsys, drawn, tmp_path):
    assert main(["plot", "contributions", *map(str, seeds)]) == 0
    assert printed_picture(capsys) == seeds[0] / "contributions.png"
    ((logs, modalities, metric),) = drawn
    assert (modalities, metric) == (["top", "bottom", "zones"], "accuracy")
    (scores, worth, coefficients, *rest), (legend,) = axes_of(plot_contributions(logs, modalities, metric))
    assert not rest
    assert legend == ["all modalities", *modalities]
    for panel, key in (
        (scores, "eval_accuracy_zones"),
        (worth, "contribution_zones"),
        (coefficients, "coefficient_zones"),
    ):
        of_both = [{entry["epoch"]: entry[key] for entry in log if key in entry} for log in logs]
        assert panel["zones"] == pytest.approx({at: (of_both[0][at] + of_both[1][at]) / 2 for at in of_both[0]})
    assert list(scores["all modalities"]) == [1, 2]
    assert sum(coefficients[name][2.0] for name in modalities) == pytest.approx(1)


def axes_of(figure):
    """What each panel draws, by the label of a line its values by epoch; and the entries of every legend."""
    panels = [
        {line.get_label(): dict(zip(*map(list, line.get_data()), strict=True)) for line in axes.lines}
        for axes in figure.axes
    ]
    return panels, [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]


def test_contributions_without_heads_are_beside_what_training_measured(tmp_path, capsys, drawn):
    told = ["--gradient_modulation", "cal", "--modulation_mode", "lr", "--logging_steps", "1", *NO_ROBUSTNESS]
    run = train(tmp_path / "run", *told)
    assert main(["plot", "contributions", str(run)]) == 0
    panels, _ = axes_of(plot_contributions(*drawn[0]))
    assert [list(panel) for panel in panels[:2]] == [["all modalities"], ["top", "bottom", "zones"]]


def test_features_of_runs_in_one_projection(seeds, emotions, capsys, drawn):
    assert main(["plot", "features", *map(str, seeds), "--split", "validation"]) == 0
    assert printed_picture(capsys) == seeds[0] / "features-validation.png"
    ((panels,),) = drawn
    assert list(panels) == ["before training", "0", "1"]
    fused = panels["0"]["fused"]
    assert {name: values.shape for name, values in panels["0"].items()} == dict.fromkeys(
        ("fused", "top", "bottom", "zones"), fused.shape
    )
    assert not np.allclose(fused, panels["before training"]["fused"])
    assert not np.allclose(fused, panels["0"]["top"])
    figure = plot_feature_scatter(panels)
    assert [len(axes.patches) for axes in figure.axes] == [4, 4, 4], "an ellipse for each kind"
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    # Of any family; runs of other widths have no projection in common.
    assert main(["plot", "features", str(emotions), "--method", "tsne"]) == 0
    assert printed_picture(capsys) == emotions / "features-test.png"
    assert main(["plot", "features", str(emotions), str(seeds[0])]) == 2
    assert "Features of one projection have one width" in capsys.readouterr().err


def test_heat_map_of_a_sweep(tmp_path, capsys):
    grid = ["--decalign_alpha", "0.01", "0.1", "--decalign_beta", "0.01", "0.1", "--seed", "0"]
    assert main(["sweep", DECALIGN, "--output_dir", str(tmp_path), *TINY, *grid, *NO_ROBUSTNESS]) == 0
    assert main(["plot", "heat-map", str(tmp_path)]) == 0
    assert printed_picture(capsys) == tmp_path / "heat-map-smoke.png"
    command = ["plot", "heat-map", str(tmp_path), "--rows", "decalign_beta", "--columns", "decalign_alpha"]
    assert main(command) == 0
    assert printed_picture(capsys) == tmp_path / "heat-map-smoke-decalign_beta-decalign_alpha.png"
    assert main([*command, "--variant", "other"]) == 2
    assert re.search(r"with a grid, \['smoke'\]; not 'other'", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["confusion", "nowhere"], "nowhere holds no recipe.yaml"),
        (["modality-gap", "nowhere"], "nowhere holds no recipe.yaml"),
        (["heat-map", "nowhere"], "nowhere holds no sweep.json"),
        (["contributions", "nowhere"], "nowhere holds no results.json and trainer_state.json"),
        (["contributions", "RUN"], "A log has no contribution and no coefficient"),
        (["features", "RUN", "RUN"], "A run is named twice"),
        (["confusion", "RUN", "--split", "dev"], "not 'dev'"),
        (["modality-gap", "RUN", "--before", "elsewhere"], "elsewhere holds no recipe.yaml"),
        (["confusion", "RUN", "--noise_amplitud", "1"], "Did you mean 'noise_amplitude'"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, emotions, capsys):
    assert main(["plot", *(str(emotions) if word == "RUN" else word for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("hf-mmalign: ")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from hf_mmalign.cli.main import main\n"
        "try: main(['plot', 'modality-gap', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().endswith("[]")
