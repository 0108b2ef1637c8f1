"""What the classifier reads of each modality and of all, several models in one projection (Figure 3 of the CAL paper)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from .plots import COLOURS, MARKERS, put_title

_MOST_POINTS = 250  # of each kind in each panel: t-SNE sees those of all panels
_WITHIN = 5.991  # the 95 % quantile of chi-squared with two degrees of freedom


def plot_feature_scatter(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    *,
    method: Literal["pca", "tsne"] = "pca",
    seed: int = 0,
    title: str = "",
    ellipses: bool = True,
) -> Figure:
    """Scatters side by side, projected together, with an ellipse around each kind of features.

    Every feature is scaled to length 1. An ellipse holds 95 % of the normal distribution with mean and covariance of its
    points as they are drawn.

    Args:
        panels (`Mapping[str, Mapping[str, np.ndarray]]`): Per heading the `(N, d)` features of every kind, as of
            :func:`~evaluation.inference.decision_features`, or of every class; d is the same everywhere.
        method (`str`, *optional*, defaults to `"pca"`): `"pca"` or `"tsne"`, fitted to all panels at once.
        seed (`int`, *optional*, defaults to 0): Of the choice of at most 250 points of a kind, and of t-SNE.
        title (`str`, *optional*): Heading.
        ellipses (`bool`, *optional*, defaults to `True`): False leaves them out, and the points paint thicker.

    Raises:
        ValueError: If the method is unknown, widths differ, or there are fewer than three features.
    """
    if method not in ("pca", "tsne"):
        raise ValueError(f"method is 'pca' or 'tsne', not {method!r}.")
    widths = {title: {values.shape[1] for values in kinds.values()} for title, kinds in panels.items()}
    if len(set().union(*widths.values())) != 1:
        raise ValueError(f"Features of one projection have one width; these have {widths}.")
    points = _projected(panels, method, seed)
    names = list(dict.fromkeys(name for kinds in panels.values() for name in kinds))
    figure = Figure(figsize=(0.6 + 4.2 * len(panels), 4.9), layout="constrained")
    axes_row = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    alpha = 0.4 if ellipses else 0.75
    axis = "principal component" if method == "pca" else "t-SNE"
    for axes, heading in zip(axes_row, panels, strict=True):
        for name, values in points[heading].items():
            place = names.index(name)  # the first, what is fused, in black
            colour = COLOURS[(place - 1) % len(COLOURS)]
            # Of more kinds than colours, none has another's colour and marker.
            marker = MARKERS[(place - 1 + place // len(COLOURS)) % len(MARKERS)]
            axes.scatter(*values.T, s=13, marker=marker, color=colour, alpha=alpha, linewidths=0, label=name)
            if ellipses and len(values) > 2:
                axes.add_patch(_ellipse(values, colour))
        axes.set_title(heading, loc="left", fontsize=10)
        axes.set(xlabel=f"{axis} 1", xticks=[], yticks=[])
        axes.set_box_aspect(1)
        axes.spines[["top", "right"]].set_visible(False)
    axes_row[0].set_ylabel(f"{axis} 2")
    entries = {c.get_label(): c for axes in axes_row for c in axes.collections}
    legend = figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=4, frameon=False, markerscale=1.6
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    put_title(figure, title)
    return figure


def _projected(
    panels: Mapping[str, Mapping[str, np.ndarray]], method: str, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    chosen = {
        (heading, name): normalize(rng.permutation(values)[:_MOST_POINTS].astype(np.float64))
        for heading, kinds in panels.items()
        for name, values in kinds.items()
    }
    stacked = np.concatenate(list(chosen.values()))
    if len(stacked) < 3:
        raise ValueError(f"A projection needs three features or more; there are {len(stacked)}.")
    if method == "pca":
        flat = PCA(n_components=2, svd_solver="full").fit_transform(stacked)
    else:
        perplexity = min(30.0, (len(stacked) - 1) / 3)
        flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(stacked)
    ends = np.cumsum([len(values) for values in chosen.values()])[:-1]
    found: dict[str, dict[str, np.ndarray]] = {heading: {} for heading in panels}
    for (heading, name), values in zip(chosen, np.split(flat, ends), strict=True):
        found[heading][name] = values
    return found


def _ellipse(points: np.ndarray, colour: str) -> Ellipse:
    spread, directions = np.linalg.eigh(np.cov(points.T))
    width, height = 2 * np.sqrt(_WITHIN * spread.clip(min=0))
    angle = np.degrees(np.arctan2(directions[1, 0], directions[0, 0]))
    return Ellipse(points.mean(axis=0), width, height, angle=angle, fill=False, edgecolor=colour, linewidth=1.8)
