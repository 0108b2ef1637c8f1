"""The pictures of DEF + AAF beside its gate: training against critics, missing modalities, codes in a projection."""

import json

import pytest
import torch
from PIL import Image

from hf_mmalign import FusionForSequenceClassification, MultimodalProcessor
from hf_mmalign.cli.main import main
from hf_mmalign.evaluation.inference import decision_features
from hf_mmalign.reporting.alignment import plot_alignment
from hf_mmalign.reporting.plots import plot_missing_curves
from hf_mmalign.runs import pictures
from hf_mmalign.runs.build import build_collator
from hf_mmalign.runs.evaluation import load_run
from tests.trainer.test_class_spread import expected

FEW = ["--max_train_samples", "64", "--max_eval_samples", "24", "--disable_tqdm", "true", "--logging_steps", "1"]
MISSING = ["--missing_ratios", "0", "0.5", "1", "--noise_amplitude", "null", "--robustness_seeds", "0"]
GATE = ["--fusion", "def_aaf", "--latent_size", "8", "--num_head_layers", "0"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("def-aaf")
    for name, told in (
        ("gate/seed=0", [*GATE, "--num_train_epochs", "2"]),
        ("gate/seed=1", [*GATE, "--num_train_epochs", "2", "--seed", "1"]),
        ("concat", ["--max_steps", "1"]),
        ("other", ["--max_steps", "1", "--missing_mode", "mask"]),
    ):
        assert main(["train", "fusion/smoke", "--output_dir", str(folder / name), *FEW, *MISSING, *told]) == 0
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """What the commands hand to the drawing functions, and the figures."""
    calls = []

    def record(draw):
        return lambda *given, **named: calls.append((given, draw(*given, **named))) or calls[-1][1]

    for name in ("plot_alignment", "plot_missing_curves", "plot_feature_scatter"):
        monkeypatch.setattr(pictures, name, record(getattr(pictures, name)))
    return calls


def picture(capsys):
    path = capsys.readouterr().out.splitlines()[-1]
    assert min(Image.open(path).size) > 300
    return path


def log_of(run):
    return json.loads((run / "trainer_state.json").read_text())["log_history"]


def test_training_against_the_critic_over_seeds(study, capsys, drawn):
    runs = [study / "gate/seed=0", study / "gate/seed=1"]
    assert main(["plot", "alignment", *map(str, runs)]) == 0
    assert picture(capsys) == str(runs[0] / "alignment.png")
    (((logs, modalities), figure),) = drawn
    headings = [axes.get_title(loc="left") for axes in figure.axes]
    assert [heading.split(",")[0] for heading in headings] == [
        "variance within classes", "the same as a share of all variance", "critic's distance of codes and fused vector",
        "norm of the critic's gradient",
    ]  # fmt: skip
    for axes, key in (
        (figure.axes[0], "eval_intra_class_variance_{}"),
        (figure.axes[2], "critic_distance_alignment_{}"),
        (figure.axes[3], "critic_gradient_norm_alignment_{}"),
    ):
        of_log = [{e["epoch"]: e[key.format("zones")] for e in log if key.format("zones") in e} for log in logs]
        lines = {line.get_label(): dict(zip(*line.get_data(), strict=True)) for line in axes.lines}
        assert lines["zones"] == pytest.approx({at: (of_log[0][at] + of_log[1][at]) / 2 for at in of_log[0]})
    assert list(lines)[:3] == modalities
    with pytest.raises(ValueError, match="no log"):
        plot_alignment([], modalities)


def test_what_evaluation_tells_of_classes_is_that_of_the_models_codes(study):
    run = study / "gate/seed=1"
    model, processor, _, dataset = load_run(run)
    rows = list(dataset["test"])
    with torch.no_grad():
        batch = build_collator(processor, model.config)(rows)
        output = model.eval()(**batch, output_hidden_states=True)
    told, labels = json.loads((run / "results.json").read_text())["test"], batch["labels"].numpy()
    for name, vectors in {"fused": output.hidden_states[0], **output.codes}.items():
        variance, share = expected(vectors.double().numpy(), labels)
        assert told[f"intra_class_variance_{name}"] == pytest.approx(variance, rel=1e-4)
        assert told[f"intra_class_share_{name}"] == pytest.approx(share, rel=1e-4)
    assert "eval_intra_class_variance_fused" in str(log_of(run))
    assert "intra_class" not in str(log_of(study / "concat"))


def test_several_models_against_the_share_that_misses_a_modality(study, capsys, drawn, tmp_path):
    runs = [str(study / name) for name in ("gate/seed=0", "concat", "gate/seed=1")]
    assert main(["plot", "missing", *runs, "--output", str(tmp_path / "missing.png")]) == 0
    assert picture(capsys) == str(tmp_path / "missing.png")
    (((groups, metric), figure),) = drawn
    assert {name: len(reports) for name, reports in groups.items()} == {"gate": 2, "concat": 1}
    assert metric is None
    reports = [json.loads((study / name / "robustness.json").read_text()) for name in ("gate/seed=0", "gate/seed=1")]
    at_half = [
        next(c for c in r["conditions"] if (c["kind"], c["modality"], c["level"]) == ("missing", "bottom", 0.5))
        for r in reports
    ]
    (line,) = [line for line in figure.axes[1].lines if line.get_label() == "gate"]
    assert list(line.get_xdata()) == [0, 0.5, 1]
    values = [condition["metrics"]["accuracy"]["mean"] for condition in at_half]
    assert line.get_ydata()[1] == pytest.approx(sum(values) / 2)
    assert plot_missing_curves(groups, "f1_macro").axes[0].get_ylabel() == "F1 macro"


def test_features_of_a_gate_are_its_codes(study, capsys, drawn):
    """Without hidden layers the classifier reads z, and of one modality alone that one's code; z also by class."""
    run = study / "gate/seed=0"
    assert main(["plot", "features", str(run), "--by", "class", "--method", "tsne"]) == 0
    assert picture(capsys) == str(run / "features-by-class-test.png")
    (((panels,), figure),) = drawn
    model = FusionForSequenceClassification.from_pretrained(run).eval()
    data = load_run(run)[3]["test"]
    collator = build_collator(MultimodalProcessor.from_pretrained(run), model.config)
    found = decision_features(model, data, collator)
    with torch.no_grad():
        batch = collator(list(data))
        output = model(**batch, output_hidden_states=True)
        only = {key: {"top": batch[key]["top"]} for key in ("features", "feature_mask")}
        alone = model(**only)
    torch.testing.assert_close(torch.from_numpy(found["fused"]), output.hidden_states[0], atol=1e-5, rtol=1e-4)
    looks = {(tuple(points.get_facecolor()[0]), len(points.get_paths()[0])) for points in figure.axes[1].collections}
    assert len(looks) == len(panels["after training"]) > 7, "each class its own colour and marker"
    for label, name in model.config.id2label.items():
        rows = torch.from_numpy(found["fused"])[batch["labels"] == label]
        if len(rows):
            drawn_rows = torch.from_numpy(panels["after training"][name])
            torch.testing.assert_close(drawn_rows, rows, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(found["top"]), alone.codes["top"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alignment", "concat"], "A log has no critics and no variance of codes"),
        (["alignment", "nowhere"], "nowhere holds no results.json and trainer_state.json"),
        (["missing", "nowhere"], "nowhere holds no robustness.json; `hf-mmalign robustness nowhere` makes it"),
        (["missing", "concat", "other"], "have the same missing_mode"),
        (["missing", "concat", "--metric", "bleu"], "--metric is one of ['accuracy'"),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_line(arguments, message, study, capsys):
    told = [str(study / word) if (study / word).exists() else word for word in arguments]
    assert main(["plot", *told]) == 2
    assert message in capsys.readouterr().err
