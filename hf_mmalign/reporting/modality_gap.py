"""The modality gap as a picture and as a number (Figure 6 of the DecAlign paper)."""

from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from .plots import COLOURS, MARKERS

ModalityFeatures = Mapping[str, np.ndarray]

_MOST_POINTS = 500  # of each modality: more only cover one another, and t-SNE slows down


def modality_gaps(features: ModalityFeatures) -> dict[tuple[str, str], float]:
    """The distance between the centroids of every two modalities, each feature scaled to length 1 first.

    This is the modality gap of Liang et al., "Mind the Gap" (NeurIPS 2022): between 0 and 2 and free of the features'
    scale, so that models can be compared.

    Args:
        features (`Mapping[str, np.ndarray]`): `(N_m, d)` per modality, d equal for all.

    Raises:
        ValueError: If there are fewer than two modalities, one has no sample, widths differ, or a feature is not finite.
    """
    if len(features) < 2:
        raise ValueError(f"A modality gap needs the features of two modalities; there are those of {list(features)}.")
    for name, values in features.items():
        if len(values) == 0:
            raise ValueError(f"No sample has the modality {name!r}.")
    widths = {name: values.shape[1] for name, values in features.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"The modalities' features have the widths {widths}, and so no common space in which there would be a gap."
        )
    centroids = {name: normalize(values).mean(axis=0) for name, values in features.items()}
    return {(a, b): float(np.linalg.norm(centroids[a] - centroids[b])) for a, b in combinations(features, 2)}


def plot_modality_gap(
    panels: Mapping[str, ModalityFeatures], *, method: Literal["pca", "tsne"] = "pca", seed: int = 0
) -> Figure:
    """Scatters of the modalities' features in two dimensions, side by side, with the gaps of each panel in its title.

    The picture shows what :func:`modality_gaps` measures, features of length 1, at most 500 of each modality drawn at
    random; the numbers are of all samples and in the full dimension, not of the picture. Principal components are fitted
    to each panel and keep distances as far as two dimensions can, so its panels share one scale; t-SNE keeps
    neighbourhoods and no distances.

    Args:
        panels (`Mapping[str, Mapping[str, np.ndarray]]`): Per heading, for example `"before"` and `"after"`, the `(N_m, d)`
            features of every modality.
        method (`str`, *optional*, defaults to `"pca"`): `"pca"` or `"tsne"`.
        seed (`int`, *optional*, defaults to 0): Of the choice of points and of t-SNE.

    Raises:
        ValueError: As :func:`modality_gaps`, or if the method is unknown.
    """
    if method not in ("pca", "tsne"):
        raise ValueError(f"method is 'pca' or 'tsne', not {method!r}.")
    figure = Figure(figsize=(0.6 + 4.4 * len(panels), 4.9), layout="constrained")
    axes_row = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(name for features in panels.values() for name in features))
    gaps = {title: modality_gaps(features) for title, features in panels.items()}
    points = {title: _in_two_dimensions(features, method, seed) for title, features in panels.items()}
    reach = {title: 1.05 * max(np.abs(values).max() for values in points[title].values()) for title in panels}
    axis = "principal component" if method == "pca" else "t-SNE"
    for axes, title in zip(axes_row, panels, strict=True):
        for name, values in points[title].items():
            place = names.index(name)
            axes.scatter(
                *values.T, s=14, marker=MARKERS[place % len(MARKERS)], color=COLOURS[place % len(COLOURS)], alpha=0.55,
                linewidths=0, label=name,
            )  # fmt: skip
        lines = "\n".join(f"{a} – {b}: {gap:.3f}" for (a, b), gap in gaps[title].items())
        axes.set_title(f"{title}\n{lines}", loc="left", fontsize=10)
        limit = max(reach.values()) if method == "pca" else reach[title]
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel=f"{axis} 1", ylabel=f"{axis} 2")
        axes.set_box_aspect(1)
        axes.locator_params(nbins=5)
        axes.spines[["top", "right"]].set_visible(False)
        if method == "tsne":
            axes.set(xticks=[], yticks=[])
    entries = {c.get_label(): c for axes in axes_row for c in axes.collections}  # a panel may lack a modality
    legend = figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=4, frameon=False, markerscale=1.6
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    figure.suptitle("Distance between the centroids of the modalities (0 to 2)", x=0.01, ha="left", fontsize=11)
    return figure


def _in_two_dimensions(features: ModalityFeatures, method: str, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    chosen = {
        name: normalize(rng.permutation(values)[:_MOST_POINTS].astype(np.float64)) for name, values in features.items()
    }
    stacked = np.concatenate(list(chosen.values()))
    if method == "pca":
        projected = PCA(n_components=2, svd_solver="full").fit_transform(stacked)
    else:
        perplexity = min(30.0, (len(stacked) - 1) / 3)
        projected = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(stacked)
        projected -= projected.mean(axis=0)
    ends = np.cumsum([len(values) for values in chosen.values()])[:-1]
    return dict(zip(chosen, np.split(projected, ends), strict=True))
