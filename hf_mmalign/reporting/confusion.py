"""Confusion matrices (Figure 4 of the DecAlign paper)."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from .plots import is_dark, put_title

_LONGEST_NAME = 32


def plot_confusion_matrix(
    true: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], *, title: str = ""
) -> Figure:
    """How often each class is taken for each other one: counts in the cells, the share of the true class as colour.

    Args:
        true, predicted (`np.ndarray` of shape `(N,)`): Class ids, 0 … `len(class_names)` − 1.
        class_names (`Sequence[str]`): Names of the classes by id, in the order of rows and columns.
        title (`str`, *optional*): Heading.

    Raises:
        ValueError: If there is no sample, or lengths differ.
    """
    size = len(class_names)
    counts = confusion_matrix(true, predicted, labels=range(size))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in class_names]
    longest = max(map(len, names))
    upright = longest <= 4
    # Room for the cells, the colour bar and, at some 0.08 inches a letter, the names beside and, slanted, below.
    width = max(2.2, 0.62 * size) + 2.6 + 0.08 * longest
    height = max(1.6, 0.5 * size) + 1.2 + (0.3 if upright else 0.06 * longest)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap=mpl.colormaps["Blues"], vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            colour = "white" if is_dark(image.to_rgba(shares[row, column])) else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=9, color=colour)
    slant = {"ha": "center"} if upright else {"ha": "right", "rotation": 45, "rotation_mode": "anchor"}
    axes.set_xticks(range(size), names, **slant)
    axes.set_yticks(range(size), [f"{name} ({total})" for name, total in zip(names, counts.sum(1), strict=True)])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (samples)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    put_title(figure, title)
    bar = figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.06, pad=0.02)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    bar.outline.set_visible(False)
    return figure
