"""`hf-mmalign plot gate`: what saved models make of a corrupted modality, against the models called directly."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from hf_mmalign import FusionForConditionalGeneration, FusionForSequenceClassification, MultimodalProcessor
from hf_mmalign.cli.main import main
from hf_mmalign.perturbation.protocols import NoiseProtocol, WhiteNoise
from hf_mmalign.runs.build import build_collator
from hf_mmalign.runs.evaluation import load_run

FEW = ["--max_train_samples", "64", "--max_eval_samples", "24", "--robustness", "false", "--disable_tqdm", "true"]
NEVER = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
GATE = ["--fusion", "def_aaf", "--latent_size", "8"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two seeds of a classifier with a gate, one that translates, and one without a gate."""
    folder = tmp_path_factory.mktemp("gates")
    for name, recipe, told in (
        ("gate/seed=0", "fusion/smoke", [*GATE, "--seed", "0"]),
        ("gate/seed=1", "fusion/smoke", [*GATE, "--seed", "1"]),
        ("translation", "translation/smoke", GATE),
        ("concat", "fusion/smoke", ["--max_steps", "1"]),
        ("early", "fusion/smoke", [*GATE, "--early_fusion", "true", "--max_steps", "1"]),
    ):
        assert main(["train", recipe, "--output_dir", str(folder / name), *FEW, *NEVER, *told]) == 0
    return folder


def drawn(capsys, *arguments):
    assert main(["plot", "gate", *map(str, arguments)]) == 0
    paths = capsys.readouterr().out.splitlines()
    for path in paths:
        assert path.endswith(".json") or min(Image.open(path).size) > 300
    return paths, json.loads(open(paths[1], encoding="utf-8").read())


def weights(folder, model_class, disturb=None):
    """`(N, M)` by the model's own outputs, of all samples in one batch, and their modalities."""
    model = model_class.from_pretrained(folder).eval()
    rows = list(load_run(folder)[3]["test"])
    if disturb is not None:
        rows = [disturb(row, index) or row for index, row in enumerate(rows)]
    with torch.no_grad():
        batch = build_collator(MultimodalProcessor.from_pretrained(folder), model.config)(rows)
        found = model(**batch).gate_weights
    return torch.stack(list(found.values()), dim=1).numpy(), list(found)


def test_mean_weights_against_noise_over_seeds(study, tmp_path, capsys):
    runs = [study / "gate/seed=0", study / "gate/seed=1"]
    output = tmp_path / "pictures" / "gate.png"
    chosen = ["--corrupt", "zones", "top", "--snrs", "-10", "10", "--output", output]
    paths, told = drawn(capsys, *runs, *chosen)
    assert paths == [str(output), str(output.with_suffix(".json"))]
    ((name, model),) = told["models"].items()
    assert (name, model["runs"], list(model["corrupted"])) == ("gate", list(map(str, runs)), ["zones", "top"])
    panel = model["corrupted"]["zones"]
    assert (panel["noise"], panel["levels"]) == ("white-noise", ["clean", 10, -10])
    for seed, run in enumerate(runs):
        clean, names = weights(run, FusionForSequenceClassification)
        noisy, _ = weights(
            run, FusionForSequenceClassification, lambda row, i: WhiteNoise(-10).disturb(row, {"zones": 3}, i, 0)
        )
        assert names == told["modalities"]
        for place, modality in enumerate(names):
            values = panel["weights"][modality]["runs"][seed]
            assert [values[0], values[2]] == pytest.approx([clean[:, place].mean(), noisy[:, place].mean()], abs=1e-6)
        moved = (noisy - clean)[:, names.index("zones")].astype(float)
        assert abs(moved).max() > 1e-5, "else this test would see nothing"
        assert panel["falls"]["runs"][seed][1] == pytest.approx((moved < -1e-6).mean(), abs=1 / len(moved))
        over_samples = panel["change"]["over_samples"][seed][1]
        assert (over_samples["n"], over_samples["mean"]) == (24, pytest.approx(moved.mean(), abs=1e-6))
        interval = stats.t.interval(0.95, 23, loc=moved.mean(), scale=stats.sem(moved))
        assert over_samples["interval"] == pytest.approx(interval, abs=1e-6)
    for level in range(3):
        values = [run[level] for run in panel["weights"]["top"]["runs"]]
        assert panel["weights"]["top"]["mean"][level] == pytest.approx(np.mean(values))
        assert panel["weights"]["top"]["std"][level] == pytest.approx(np.std(values, ddof=1))
        assert sum(panel["weights"][m]["mean"][level] for m in told["modalities"]) == pytest.approx(1, abs=1e-5)


def test_single_samples_of_a_translation_before_and_after(study, capsys):
    run = study / "translation"
    chosen = ["--epsilons", "5", "10", "--snrs", "0", "--sample", "3"]
    paths, told = drawn(capsys, run, *chosen)
    assert paths == [str(run / name) for name in ("gate-test.png", "gate-test.json", "gate-test-samples.png")]
    ((model,),) = (told["models"].values(),)
    assert model["corrupted"]["text"]["noise"] == "words-replaced"
    assert model["corrupted"]["text"]["levels"] == ["clean", 5, 10]
    assert model["corrupted"]["text"]["falls"]["std"] == [None, None], "a single run has no spread"
    everyone = NoiseProtocol("clean", share=1.0)
    clean, names = weights(run, FusionForConditionalGeneration)
    noisy, _ = weights(
        run,
        FusionForConditionalGeneration,
        lambda row, i: everyone.disturb(row, {"text": "text"}, "words-replaced", 10.0, i, 0),
    )
    (sample,) = told["samples"]
    assert [sample["clean"][name] for name in names] == pytest.approx(clean[3], abs=1e-6)
    assert [sample["corrupted"]["text"][name] for name in names] == pytest.approx(noisy[3], abs=1e-6)
    # Alone, the option takes four samples; an id is found before a number.
    _, told = drawn(capsys, study / "gate/seed=0", "--snrs", "0", "--sample")
    data = load_run(study / "gate/seed=0")[3]["test"]
    assert [one["name"] for one in told["samples"]] == [str(data[row]["id"]) for row in (0, 8, 15, 23)]
    _, told = drawn(capsys, study / "gate/seed=0", "--snrs", "0", "--sample", str(data[5]["id"]))
    assert [one["name"] for one in told["samples"]] == [str(data[5]["id"])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["concat"], "mmalign_fusion with fusion: concat; fusion: def_aaf has a gate"),
        (["early"], "fusion: def_aaf and early_fusion, which joins them first"),
        (["gate/seed=0", "translation"], "runs in one picture have the same"),
        (["gate/seed=0", "gate/seed=0"], "A run is named twice"),
        (["gate/seed=0", "--corrupt", "audio"], "some of ['top', 'bottom', 'zones'], not ['audio']"),
        (["gate/seed=0", "--snrs", "inf"], "finite number of decibels"),
        (["translation", "--epsilons", "-1"], "finite number of at least 0"),
        (["gate/seed=0", "--sample", "nobody"], "'nobody' is no sample of 'test'"),
        (["gate/seed=0", "--split", "dev"], "not 'dev'"),
        (["nowhere"], "nowhere holds no recipe.yaml"),
    ],
)
def test_what_cannot_be_weighed_is_one_clear_line(arguments, message, study, capsys):
    told = [str(study / word) if (study / word).exists() else word for word in arguments]
    assert main(["plot", "gate", *told]) == 2
    assert message in capsys.readouterr().err
