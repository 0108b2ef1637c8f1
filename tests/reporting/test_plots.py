import numpy as np
import pytest
from matplotlib import _pylab_helpers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from hf_mmalign.evaluation.scores import CLEAN, Condition
from hf_mmalign.perturbation.protocols import NoiseProtocol
from hf_mmalign.reporting.plots import (
    plot_heat_map,
    plot_missing_curves,
    plot_report,
    plot_robustness,
    plot_training_curves,
    save_figure,
)

from .test_robustness import make_report


def drawn(figure):
    """The renderer of a figure whose layout is settled."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def texts(figure):
    """Every text a reader sees."""
    drawn(figure)
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]


def overlaps(labels, renderer):
    boxes = [label.get_window_extent(renderer) for label in labels if label.get_text()]
    return any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def assert_nothing_is_cut(figure):
    renderer = drawn(figure)
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    for box in [*boxes, *(axes.get_tightbbox(renderer) for axes in figure.axes)]:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def assert_all_in_view(figure):
    """No text is cut at the figure's edge, and the colour bar's label stands clear of its numbers."""
    assert_nothing_is_cut(figure)
    renderer, bar = drawn(figure), figure.axes[-1]
    label = bar.yaxis.label.get_window_extent(renderer)
    assert not any(label.overlaps(tick.get_window_extent(renderer)) for tick in bar.get_yticklabels())


def bar_heights(axes):
    return [
        [bar.get_height() for bar in container] for container in axes.containers if hasattr(container[0], "get_height")
    ]


def test_bars_show_every_condition_of_every_model(tmp_path):
    reports = {"plain": [make_report(0.7), make_report(0.74)], "WMA": [make_report(0.8)]}
    figure = plot_robustness(reports)
    heights = bar_heights(figure.axes[0])
    assert heights[0] == pytest.approx([0.72, 0.67, 0.61, 0.67, 0.62])
    assert heights[1] == pytest.approx([0.8, 0.75, 0.69, 0.75, 0.7])
    assert figure.axes[0].get_ylim()[0] == 0, "bars whose lengths compare start at 0"
    shown = texts(figure)
    for text in ("plain", "WMA", "clean", "text\nnoise\n3", "image\nmissing\n50 %", "AUROC ↑", "0.720"):
        assert text in shown
    save_figure(figure, tmp_path / "bars.png")
    assert Image.open(tmp_path / "bars.png").size[0] > 500


def test_more_models_than_colours_are_rows():
    reports = {f"model-{i}": [make_report(0.6 + 0.01 * i), make_report(0.62 + 0.01 * i)] for i in range(22)}
    figure = plot_robustness(reports)
    assert_nothing_is_cut(figure)
    assert len(figure.axes) == 5
    titles = [axes._left_title for axes in figure.axes]
    assert [title.get_text() for title in titles][:2] == ["clean", "text noise 3"]
    renderer = drawn(figure)
    assert not overlaps(titles, renderer)
    for axes, at in zip(figure.axes, (0.61, 0.56), strict=False):
        dots = axes.containers[0].lines[0]
        assert dots.get_xdata() == pytest.approx(at + 0.01 * np.arange(22))
        assert axes.lines[0].get_xdata() == pytest.approx([at, at])
        assert not overlaps(axes.get_xticklabels(), renderer)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(reports)
    assert not overlaps(figure.axes[0].get_yticklabels(), renderer)
    assert figure.axes[0].yaxis_inverted(), "the first model is on top"


@pytest.mark.parametrize("models", [1, 2, 3, 6])
def test_labels_of_bars_do_not_overlap(models):
    reports = {f"m{i}": make_report(0.6 + 0.01 * i, modalities=("vision", "audio", "text")) for i in range(models)}
    figure = plot_robustness(reports)
    renderer, axes = drawn(figure), figure.axes[0]
    assert not overlaps(axes.get_xticklabels(), renderer)
    assert not overlaps(axes.texts, renderer)


def test_labels_of_noise_on_raw_inputs_do_not_overlap():
    report = make_report(0.7)
    protocol = NoiseProtocol("clean").conditions({"text": "text", "image": "image"})
    for modality, kind in protocol:
        report.scores |= {Condition(kind, modality, epsilon): report.scores[CLEAN] for epsilon in (5.0, 10.0)}
    axes = (figure := plot_report(report)).axes[0]
    renderer = drawn(figure)
    assert len(axes.get_xticklabels()) == 5 + 2 * len(protocol)
    assert not overlaps(axes.get_xticklabels(), renderer)


def test_a_report_has_bars_and_curves():
    figure = plot_report(make_report())
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["clean and disturbed", "modality missing"]
    curve = figure.axes[1].lines[1]
    assert curve.get_label() == "image"
    assert curve.get_xdata().tolist() == [0, 0.5, 1]
    assert curve.get_ydata() == pytest.approx([0.8, 0.7, 0.6])
    assert "100 %" in texts(figure)


def test_curves_have_a_panel_per_modality_and_a_line_per_model():
    figure = plot_missing_curves({"plain": [make_report(0.7), make_report(0.8)], "WMA": make_report(0.9)})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["text missing", "image missing"]
    lines = figure.axes[0].lines
    assert lines[0].get_ydata() == pytest.approx([0.75, 0.7, 0.65])
    assert lines[1].get_ydata() == pytest.approx([0.9, 0.85, 0.8])
    assert lines[0].get_color() != lines[1].get_color()
    assert lines[0].get_marker() != lines[1].get_marker(), "lines differ by more than their colour"


def test_a_report_without_the_condition_is_named():
    with pytest.raises(ValueError, match="text noise 3"):
        plot_robustness({"a": make_report(), "b": make_report(amplitudes=(1.0,))})
    with pytest.raises(ValueError, match="no report"):
        plot_robustness({})


@pytest.mark.parametrize(("greater_is_better", "best"), [(True, (1, 0)), (False, (0, 1))])
def test_a_heat_map_frames_and_embolds_its_best_cell(greater_is_better, best):
    grid = [[0.7, 0.6], [0.9, float("nan")]]
    figure = plot_heat_map(grid, [0.1, 1], [0.2, 2.0], metric="auroc", greater_is_better=greater_is_better)
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["0.600", "0.700", "0.900"]
    frame = axes.patches[0]
    row, column = best
    assert frame.get_x() < column < frame.get_x() + frame.get_width()
    assert frame.get_y() < row < frame.get_y() + frame.get_height()
    bold = [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]
    assert bold == [f"{grid[row][column]:.3f}"]
    shown = texts(figure)
    assert {"α", "β", "0.1", "2.0"} <= set(shown)


def test_numbers_of_a_heat_map_stand_out_from_their_cell():
    grid = np.linspace(0, 1, 12).reshape(3, 4)
    axes = plot_heat_map(grid, range(3), range(4), greater_is_better=True).axes[0]
    colours = [text.get_color() for text in axes.texts]
    assert colours[0] == "black"
    assert colours[-1] == "white"


def test_a_long_title_of_a_heat_map_is_all_there():
    title = "a variant with a long name: validation, hidden_size = 4, num_hidden_layers = 2"
    figure = plot_heat_map([[0.1, 0.2]], ["1e-3"], [1, 2], row_name="learning_rate", metric="accuracy", title=title)
    assert title in [text.replace("\n", " ") for text in texts(figure)]
    assert_all_in_view(figure)


def test_heat_maps_of_equal_values_and_none():
    drawn(plot_heat_map([[0.5, 0.5]], ["a"], ["b", "c"], greater_is_better=True))
    assert not plot_heat_map([[0.5, 0.6]], ["a"], ["b", "c"]).axes[0].patches
    with pytest.raises(ValueError, match="no number"):
        plot_heat_map([[float("nan")]], ["a"], ["b"])
    with pytest.raises(ValueError, match="1 × 2 labels"):
        plot_heat_map([[0.1]], ["a"], ["b", "c"])


LOG = [
    {"loss": 2.0, "loss_task": 1.5, "loss_wma": 100.0, "step": 10, "epoch": 1.0, "learning_rate": 1e-4},
    {"eval_loss": 1.8, "eval_loss_task": 1.4, "eval_auroc": 0.6, "step": 10, "epoch": 1.0},
    {"loss": 1.0, "loss_task": 0.5, "loss_wma": 0.1, "step": 20, "epoch": 2.0, "learning_rate": 1e-4},
    {"train_loss": 1.5, "train_runtime": 3.0, "step": 20},
]


def test_training_curves_have_a_panel_per_component():
    figure = plot_training_curves(LOG)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["total loss", "task", "wma"]
    total, task, wma = figure.axes
    assert total.lines[0].get_xydata().tolist() == [[10, 2.0], [20, 1.0]]
    assert task.lines[1].get_xydata().tolist() == [[10, 1.4]]
    assert wma.get_yscale() == "log", "a component over three decades"
    assert total.get_yscale() == "linear"
    assert {"training", "evaluation"} <= set(texts(figure))


def test_training_curves_of_chosen_components():
    assert [a.get_title(loc="left") for a in plot_training_curves(LOG, ["task"]).axes] == ["total loss", "task"]
    with pytest.raises(ValueError, match="loss_adversary"):
        plot_training_curves(LOG, ["adversary"])
    with pytest.raises(ValueError, match="no loss"):
        plot_training_curves([{"train_loss": 1.0, "step": 3}])


def test_no_figure_is_left_in_pyplot(tmp_path):
    save_figure(plot_report(make_report()), tmp_path / "a.png")
    save_figure(plot_report(make_report()), tmp_path / "a.pdf")
    assert not _pylab_helpers.Gcf.figs
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
