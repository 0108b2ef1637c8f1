"""What training against critics did to the codes of the modalities (Figure 2 of DEF + AAF)."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .contributions import Log, curves_of, draw_curve
from .plots import put_title

_FUSED = "fused"
# By the beginning of their names in the log, which end in a modality's.
_PANELS = {
    "eval_intra_class_variance_": "variance within classes, validation",
    "eval_intra_class_share_": "the same as a share of all variance, validation",
    "critic_distance_alignment_": "critic's distance of codes and fused vector, training",
    "critic_gradient_norm_alignment_": "norm of the critic's gradient, training",
    "critic_accuracy_generator_": "critics' accuracy, training",
}
# What each is held at, or where a critic can no longer tell.
_REFERENCES = {"critic_gradient_norm_alignment_": 1.0, "critic_accuracy_generator_": 0.5}


def plot_alignment(logs: Sequence[Log], modalities: Sequence[str], title: str = "") -> Figure:
    """How compact classes are in codes and fused vector over the epochs of a training, and what the critics found.

    A panel each for what the logs hold. Several logs are training seeds: lines are then means over them, bands the standard
    deviation, at the epochs that all logs have.

    Args:
        logs (`Sequence[Sequence[Mapping[str, float]]]`): `log_history` of each run, with the values of
            [`~trainer.adversary.Adversary`] and [`~trainer.class_spread.ClassSpread`].
        modalities (`Sequence[str]`): Their names.
        title (`str`, *optional*): Heading.

    Raises:
        ValueError: If there is no log, or they hold nothing of the kind.
    """
    if not logs:
        raise ValueError("There is no log to plot.")
    names = [_FUSED, *modalities]
    found = {key: curves_of(logs, {name: f"{key}{name}" for name in names}) for key in _PANELS}
    panels = {key: curves for key, curves in found.items() if curves}
    if not panels:
        raise ValueError("A log has no critics and no variance of codes: was it trained with fusion: def_aaf or gan?")
    figure = Figure(figsize=(6.6, 0.9 + 2.2 * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, curves) in zip(all_axes, panels.items(), strict=True):
        for name, curve in curves.items():
            # Black for what is fused, as the legend of contributions has it.
            draw_curve(axes, name, curve, None if name == _FUSED else list(modalities).index(name))
        if key in _REFERENCES:
            axes.axhline(_REFERENCES[key], color="#5f6368", linewidth=0.9, linestyle="--")
        axes.set_title(_PANELS[key], loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
    all_axes[-1].set_xlabel("epoch")
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    all_axes[-1].set_xlim(left=0)
    entries = {line.get_label(): line for axes in all_axes for line in axes.lines if line.get_label() in names}
    entries = {name: entries[name] for name in names if name in entries}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4, frameon=False)
    spread = f"mean ± standard deviation of {len(logs)} runs" if len(logs) > 1 else ""
    put_title(figure, ": ".join(text for text in (title, spread) if text))
    return figure
