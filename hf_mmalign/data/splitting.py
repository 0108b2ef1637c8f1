"""Random splits and folds of a table: seeded, by group, and with the classes' shares kept where asked for."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from .errors import DataError


def draw_parts(
    count: int,
    fractions: dict[str, float],
    seed: int = 0,
    groups: Sequence | None = None,
    classes: Sequence | None = None,
) -> dict[str, np.ndarray]:
    """Split `count` rows at random.

    Args:
        count (`int`): Number of rows.
        fractions (`dict[str, float]`): Share of each part; what is left is the part `rest`.
        seed (`int`): Of the draw.
        groups (`Sequence`, *optional*): One value per row; the rows of a group stay together (shares then are approximate).
        classes (`Sequence`, *optional*): One value per row; every part gets about its share of each.

    Returns:
        Row numbers in ascending order, by part.

    Raises:
        DataError: If a share lies outside (0, 1), they add up to 1 or more, or a part would be empty.
    """
    if any(not 0 < share < 1 for share in fractions.values()) or not 0 < sum(fractions.values()) < 1:
        raise DataError(f"shares lie between 0 and 1 and leave something over, unlike {fractions}", field="splits")
    units = np.arange(count) if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    sizes = np.bincount(units)
    kinds = np.zeros(len(sizes), dtype=int)
    if classes is not None:
        kinds[units] = np.unique(np.asarray(classes, dtype=str), return_inverse=True)[
            1
        ]  # a group is of its last row's class
    rng = np.random.default_rng(seed)
    ends = np.cumsum(list(fractions.values()))
    part_of_unit = np.empty(len(sizes), dtype=int)
    for kind in range(kinds.max() + 1):  # the units of one class at a time, so that every part gets its share of it
        members = rng.permutation(np.flatnonzero(kinds == kind))
        middles = np.cumsum(sizes[members]) - sizes[members] / 2
        part_of_unit[members] = np.searchsorted(ends * sizes[members].sum(), middles)
    names, part_of = list(fractions), part_of_unit[units]
    parts = {name: np.flatnonzero(part_of == number) for number, name in enumerate([*names, "rest"])}
    empty = [name for name, rows in parts.items() if not len(rows)]
    if empty:
        raise DataError(f"{count} rows are too few for {fractions}: nothing is left for {empty[0]!r}", field="splits")
    return parts


def fold_of_rows(
    count: int, folds: int, seed: int = 0, groups: Sequence | None = None, classes: Sequence | None = None
) -> np.ndarray:
    """The fold of each row, `(count,)` from 0 to `folds` − 1; groups and classes as for :func:`draw_parts`.

    Raises:
        DataError: If there are fewer rows, or groups, than folds.
    """
    units = count if groups is None else len(set(map(str, groups)))
    if not 3 <= folds <= units:
        kind = "rows" if groups is None else "groups"
        raise DataError(f"from 3 to {units} folds are possible with {units} {kind}, not {folds}", field="folds")
    fold_of = np.zeros(count, dtype=int)
    if groups is not None:
        groups = np.asarray(groups, dtype=str)
    kwargs = {"n_splits": folds, "shuffle": True, "random_state": seed}
    if classes is None:
        splitter = KFold(**kwargs) if groups is None else GroupKFold(**kwargs)
    else:
        classes = np.asarray(classes, dtype=str)
        splitter = StratifiedKFold(**kwargs) if groups is None else StratifiedGroupKFold(**kwargs)
    with warnings.catch_warnings(action="ignore"):  # a class of fewer rows than folds is missing from some: no matter
        for number, (_, rows) in enumerate(splitter.split(np.zeros(count), classes, groups)):
            fold_of[rows] = number
    return fold_of
