"""RAVDESS: features by clip, folds by actor."""

import numpy as np
import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.readers.ravdess import EMOTIONS, open_source
from hf_mmalign.data.schema import SPLITS, label_names_of, modalities_of


@pytest.fixture
def ravdess():
    """Eight clips of each of the 24 actors, one per emotion. A dict, for `write_pickle`."""
    rng = np.random.RandomState(0)
    names = [f"01-01-{emotion:02d}-01-01-01-{actor:02d}" for actor in range(1, 25) for emotion in range(1, 9)]
    return {name: rng.randn(294) for name in names}


def actors_of(path, **options):
    source = open_source(path, **options)
    return {split: {int(row["id"][-2:]) for row in source.splits[split]()} for split in SPLITS}


def test_modalities_label_and_split(load, write_pickle, ravdess):
    data = load("ravdess", write_pickle(ravdess))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 128, "validation": 32, "test": 32}
    assert modalities_of(data) == {"action_units": 35, "mfcc": 259}
    assert label_names_of(data) == list(EMOTIONS)
    row = data["test"][5]
    assert EMOTIONS[row["label"]] == EMOTIONS[int(row["id"][6:8]) - 1]
    assert data["train"]["label"][:8].tolist() == list(range(8))  # a shortened split has all classes
    joined = np.concatenate([row["action_units"][0], row["mfcc"][0]])
    np.testing.assert_array_equal(joined, ravdess[row["id"]].astype(np.float32))


@pytest.mark.parametrize("folds", [3, 5, 6, 12])
def test_folds_are_by_actor_and_balance_the_sexes(write_pickle, ravdess, folds):
    path = write_pickle(ravdess)
    splits = [actors_of(path, fold=fold, folds=folds) for fold in range(folds)]
    for fold, split in enumerate(splits):
        assert set.union(*split.values()) == set(range(1, 25))
        assert sum(map(len, split.values())) == 24
        assert split["validation"] == splits[(fold + 1) % folds]["test"]
        assert abs(len(split["test"]) - 24 / folds) < 1
        assert abs(2 * sum(actor % 2 for actor in split["test"]) - len(split["test"])) <= 1
    assert sorted(actor for split in splits for actor in split["test"]) == list(range(1, 25))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda clips: clips.update({"01-01-09-01-01-01-01": np.zeros(294)}), {}, "'01-01-09-01-01-01-01' is no clip"),
        (lambda clips: clips.update({3: np.zeros(294)}), {}, "the key 3 is no clip name"),
        (
            lambda clips: clips.update({(1,) * 99: np.zeros(294)}),
            {},
            r"the key \(1, 1, 1, 1, 1, 1, \.\.\.\) is no clip",
        ),
        (lambda clips: clips.update({"01-01-01-01-01-02-01": np.zeros(293)}), {}, r"294 numbers.*not \(293,\)"),
        (lambda clips: clips.update({"01-01-01-01-01-02-01": ["x"] * 294}), {}, "294 numbers are expected"),
        (lambda clips: clips["01-01-01-01-01-01-01"].put(0, np.inf), {}, "1 NaN or Inf"),
        (lambda clips: clips.clear(), {}, "a dict of clips"),
        (lambda clips: [clips.pop(name) for name in list(clips) if int(name[-2:]) > 9], {}, "5 and 4"),
        (lambda clips: None, {"fold": 6}, "field 'fold': an integer from 0 to 5 is expected, not 6"),
        (lambda clips: None, {"folds": 2}, "field 'folds': an integer from 3 to 12"),
        (lambda clips: None, {"fold": "0"}, "field 'fold'"),
        (lambda clips: None, {"standardize_actors": 1}, "field 'standardize_actors': true or false"),
        (
            lambda clips: clips["01-01-01-01-01-01-01"].put(0, np.nan),
            {"standardize_actors": True},
            "field 'action_units': 1 NaN or Inf",
        ),
    ],
)
def test_faults_are_named(load, write_pickle, ravdess, change, options, message):
    change(ravdess)
    with pytest.raises(DataError, match=message):
        load("ravdess", write_pickle(ravdess), **{"fold": 5} | options)


def test_actors_are_standardized_each_for_himself(load, write_pickle, ravdess):
    changed = {name: (1 + actor) * values + actor for name, values in ravdess.items() if (actor := int(name[-2:]))}
    for values in [*ravdess.values(), *changed.values()]:
        values[7] = 0.1  # constant: centred only
    for data in (load("ravdess", write_pickle(clips), standardize_actors=True) for clips in (ravdess, changed)):
        values = np.concatenate([rows["mfcc"][:][:, 0] for rows in data.values()])
        actors = np.concatenate([[int(name[-2:]) for name in rows["id"][:]] for rows in data.values()])
        for actor in range(1, 25):
            np.testing.assert_allclose(values[actors == actor].mean(axis=0), 0, atol=1e-6)
            np.testing.assert_allclose(values[actors == actor].std(axis=0), 1, rtol=1e-5)
        first = data["train"][0]
        np.testing.assert_allclose(first["action_units"][0, 7], 0, atol=1e-6)
        clips = [ravdess[name] for name in ravdess if name[-2:] == first["id"][-2:]]
        expected = (ravdess[first["id"]] - np.mean(clips, axis=0))[:5] / np.std(clips, axis=0)[:5]
        np.testing.assert_allclose(first["action_units"][0, :5], expected, rtol=1e-5)


def test_the_real_file(load, shared_data):
    data = load("ravdess", shared_data / "ravdess", fold=2)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 960, "validation": 240, "test": 240}
    assert np.bincount(data["test"]["label"][:]).tolist() == [16] + [32] * 7
