"""Confusion matrices, modality gaps and heat maps of sweeps."""

import numpy as np
import pytest

from hf_mmalign.reporting.confusion import plot_confusion_matrix
from hf_mmalign.reporting.modality_gap import modality_gaps, plot_modality_gap
from hf_mmalign.reporting.sweep_grid import plot_sweep_grid

from .test_plots import assert_all_in_view, drawn, overlaps, texts


def test_cells_hold_counts_and_colours_shares_of_the_true_class():
    true, predicted = np.array([0, 0, 0, 0, 2]), np.array([0, 0, 0, 2, 2])
    figure = plot_confusion_matrix(true, predicted, ["happy", "sad", "angry"], title="a run")
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == [[0.75, 0, 0.25], [0, 0, 0], [0, 0, 1]]
    cells = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert cells == {((0, 0), "3"), ((2, 0), "1"), ((2, 2), "1")}, "empty cells stay empty"
    assert {"a run", "true (samples)", "predicted", "happy (4)", "sad (0)", "angry (1)", "happy"} <= set(texts(figure))


def test_labels_of_many_classes_do_not_overlap():
    names = [f"a long class name {index}" for index in range(12)]
    figure = plot_confusion_matrix(np.arange(12), np.arange(12), names)
    renderer = drawn(figure)
    assert not overlaps(figure.axes[0].get_yticklabels(), renderer)


@pytest.mark.parametrize(
    "names",
    [["no", "yes"], ["a very long name of a class indeed", "b", "another one of many words, as in a survey"], ["only"]],
)
def test_long_names_and_titles_are_all_in_view(names):
    ids = np.arange(len(names))
    title = "seed=0, learning_rate=1e-3,wma_alpha=1.0, test: 70.0 % of 400 on the diagonal"
    figure = plot_confusion_matrix(ids, ids, names, title=title)
    assert title in [text.replace("\n", " ") for text in texts(figure)]
    assert_all_in_view(figure)
    cells = figure.axes[0].get_window_extent(drawn(figure))
    assert cells.width > figure.bbox.width / 3, "the matrix, not its names, is what the picture shows"


def test_the_gap_is_the_distance_of_centroids_on_the_unit_sphere():
    features = {
        "text": np.array([[3.0, 0.0], [0.1, 0.0]]),
        "audio": np.array([[0.0, 2.0], [0.0, 9.0], [4.0, 0.0]]),
    }
    # Centroids (1, 0) and (1/3, 2/3).
    assert modality_gaps(features) == {("text", "audio"): pytest.approx(np.sqrt(8) / 3)}
    scaled = {"text": features["text"] * 50, "audio": features["audio"]}
    assert modality_gaps(scaled) == pytest.approx(modality_gaps(features)), (
        "the scale of the features has no part in it"
    )
    with pytest.raises(ValueError, match=r"there are those of \['text'\]"):
        modality_gaps({"text": features["text"]})
    with pytest.raises(ValueError, match="No sample has the modality 'audio'"):
        modality_gaps(features | {"audio": np.zeros((0, 2))})


def panels(rng: np.random.Generator) -> dict:
    near = {"text": rng.normal(size=(60, 8)), "audio": rng.normal(size=(40, 8)), "vision": rng.normal(size=(700, 8))}
    return {"before": {name: values + 4 * place for place, (name, values) in enumerate(near.items())}, "after": near}


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_panels_show_every_modality_and_the_numbers_of_all_samples(method):
    features = panels(np.random.default_rng(0))
    if method == "tsne":  # few points: only the shape of the picture is looked at here
        features = {title: {name: values[:20] for name, values in panel.items()} for title, panel in features.items()}
    figure = plot_modality_gap(features, method=method, seed=1)
    for axes, (title, panel) in zip(figure.axes, features.items(), strict=True):
        gaps = modality_gaps(panel)
        lines = axes.get_title(loc="left").split("\n")
        assert lines == [title, *(f"{a} – {b}: {gap:.3f}" for (a, b), gap in gaps.items())]
        assert [len(c.get_offsets()) for c in axes.collections] == [min(len(v), 500) for v in panel.values()]
        assert len({tuple(c.get_facecolor()[0]) for c in axes.collections}) == 3
    before, after = figure.axes
    if method == "pca":
        assert before.get_xlim() == after.get_xlim(), "panels whose distances compare share a scale"
    again = plot_modality_gap(features, method=method, seed=1).axes[1].collections[0].get_offsets()
    np.testing.assert_allclose(again, after.collections[0].get_offsets(), atol=1e-4)
    with pytest.raises(ValueError, match="'umap'"):
        plot_modality_gap(features, method="umap")


def test_a_modality_that_one_panel_lacks_keeps_its_colour_and_legend_entry():
    features = panels(np.random.default_rng(0))
    del features["before"]["text"]
    figure = plot_modality_gap(features)
    before, after = ({c.get_label(): tuple(c.get_facecolor()[0]) for c in axes.collections} for axes in figure.axes)
    assert before == {name: after[name] for name in ("audio", "vision")}
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == ["audio", "text", "vision"]


def test_principal_components_keep_the_gap():
    figure = plot_modality_gap({"only": {"a": np.array([[5.0, 0, 0], [5.0, 0, 0]]), "b": np.array([[0, 0.1, 0]] * 2)}})
    a, b = (np.asarray(c.get_offsets()).mean(axis=0) for c in figure.axes[0].collections)
    assert np.linalg.norm(a - b) == pytest.approx(np.sqrt(2))


GRID = [
    {"alpha": alpha, "beta": beta, "layers": layers, "heads": 2, "validation": alpha + 10 * beta + layers}
    for alpha in (0.1, 0.5)
    for beta in (0.0, 0.05, 1.0)
    for layers in (1, 3)
]


def test_two_arguments_that_vary_are_found():
    figure = plot_sweep_grid([cell for cell in GRID if cell["layers"] == 1], "f1_nonzero", title="DecAlign: validation")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[1.1, 1.6, 11.1], [1.5, 2.0, 11.5]])
    shown = texts(figure)
    assert {"alpha", "beta", "0.05", "F1 (non-zero) ↑", "DecAlign: validation"} <= set(shown)


@pytest.mark.parametrize(("metric", "layers"), [("f1_nonzero", 3), ("mae", 1)])
def test_further_arguments_are_cut_at_the_best_cell(metric, layers):
    figure = plot_sweep_grid(GRID, metric, rows="beta", columns="alpha")
    expected = np.array([[0.1, 0.5], [0.6, 1.0], [10.1, 10.5]]) + layers
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), expected)
    assert f"layers = {layers}" in texts(figure)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"varies \['alpha', 'beta', 'layers'\], and rows is None"),
        ({"rows": "alpha", "columns": "heads"}, "columns 'heads'"),
        ({"rows": "alpha"}, "columns None"),
        ({"rows": "alpha", "columns": "alpha"}, "two arguments"),
    ],
)
def test_arguments_that_make_no_heat_map_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_sweep_grid(GRID, "mae", **arguments)
    with pytest.raises(ValueError, match="has no grid"):
        plot_sweep_grid([], "mae")
