"""The picture of what a training's instruments logged."""

import json

import numpy as np
import pytest
from PIL import Image

from hf_mmalign.cli.main import main
from hf_mmalign.reporting.instruments import plot_instruments

FEW = ["--max_train_samples", "64", "--max_eval_samples", "24", "--disable_tqdm", "true", "--logging_steps", "1"]
MEASURED = [
    "--log_gradient_shares",
    "2",
    "--log_token_geometry",
    "1",
    "--robustness",
    "false",
    "--num_train_epochs",
    "2",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instruments")
    for seed in ("0", "1"):
        told = [*FEW, *MEASURED, "--seed", seed]
        assert main(["train", "wma/smoke", "--output_dir", str(folder / seed), *told]) == 0
    plain = ["--output_dir", str(folder / "plain"), *FEW, "--max_steps", "1", "--robustness", "false"]
    assert main(["train", "fusion/smoke", *plain]) == 0
    return folder


def test_every_instrument_has_its_panel_with_what_was_logged(runs, capsys):
    folders = [runs / "0", runs / "1"]
    assert main(["plot", "training", *map(str, folders)]) == 0
    path = capsys.readouterr().out.splitlines()[-1]
    assert path == str(runs / "0/instruments.png")
    assert min(Image.open(path).size) > 300
    logs = [json.loads((one / "trainer_state.json").read_text())["log_history"] for one in folders]
    modalities = json.loads((folders[0] / "config.json").read_text())["modalities"]
    first, second = modalities
    pair = f"{first}_{second}"
    panels = {axes.get_title(loc="left"): axes for axes in plot_instruments(logs, modalities).axes}
    assert list(panels) == [
        *(f"share of the gradient, {owner}" for owner in (*modalities, "shared")),
        *(f"cosine with the task's gradient, {owner}" for owner in (*modalities, "shared")),
        f"WMA, {first} – {second}",
        "mean cosine between tokens",
    ]
    drawn = {
        (f"share of the gradient, {first}", "task"): f"gradient_share_task_{first}",
        ("share of the gradient, shared", "wma"): "gradient_share_wma_shared",
        (f"WMA, {first} – {second}", "distance D"): f"wma_distance_{pair}",
        (f"WMA, {first} – {second}", "target β·D̄"): f"wma_target_{pair}",
        ("mean cosine between tokens", f"within {first}"): f"cosine_within_{first}",
        ("mean cosine between tokens", f"mismatched {first} – {second}"): f"cosine_mismatched_{pair}",
    }
    for (heading, label), key in drawn.items():
        (line,) = [one for one in panels[heading].lines if one.get_label() == label]
        values = [[entry[key] for entry in log if key in entry] for log in logs]
        np.testing.assert_allclose(line.get_ydata(), np.mean(values, axis=0), rtol=1e-6)


def test_a_modality_whose_name_is_another_s_end_keeps_its_own():
    entry = {"epoch": 1.0, "gradient_share_task_top_view": 0.3, "gradient_share_task_view": 0.4}
    entry |= {"wma_distance_view_top_view": 0.5, "cosine_between_view_top_view": 0.6}
    panels = {axes.get_title(loc="left"): axes for axes in plot_instruments([[entry]], ["view", "top_view"]).axes}
    found = {
        heading: [(line.get_label(), line.get_ydata()[0]) for line in axes.lines] for heading, axes in panels.items()
    }
    assert found == {
        "share of the gradient, view": [("task", 0.4)],
        "share of the gradient, top_view": [("task", 0.3)],
        "WMA, view – top_view": [("distance D", 0.5)],
        "mean cosine between tokens": [("between view – top_view", 0.6)],
    }


def test_a_run_without_instruments_says_which_there_are(runs, capsys):
    assert main(["plot", "training", str(runs / "plain")]) == 2
    assert "train with log_gradient_shares or log_token_geometry, or with WMA" in capsys.readouterr().err
