"""MM-IMDb, as a folder and as HDF5."""

import json

import h5py
import numpy as np
import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.readers import hdf5
from hf_mmalign.data.schema import label_names_of, modalities_of, num_labels_of, problem_type_of


def test_folder_form(load, mmimdb_folder):
    data = load("mmimdb", mmimdb_folder, num_genres=3)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 6, "validation": 2, "test": 2}
    assert modalities_of(data) == {"text": "text", "image": "image"}
    assert problem_type_of(data) == "multi_label_classification"
    # by frequency in the training split (4 Drama, 3 Comedy, 2 War, 1 Adult), so test rows cannot change them
    assert label_names_of(data) == ["Drama", "Comedy", "War"]
    first = data["train"][0]
    assert (first["id"], first["text"]) == ("0000000", "The longest plot, of movie 0000000.")
    assert first["image"].size == (40, 64)
    assert data["train"]["label"][:] == [[0, 2], [0, 1], [1], [0, 1], [0], [2]]
    assert data["validation"]["label"][:] == [[0], []]  # Sport is not among the three


def test_folder_form_has_25_genres_by_default(load, mmimdb_folder):
    with pytest.raises(DataError, match=r"num_genres.*only 4 genres"):
        load("mmimdb", mmimdb_folder)
    movie = mmimdb_folder / "dataset" / "0000000.json"
    content = json.loads(movie.read_text()) | {"genres": [f"genre {index:02d}" for index in range(30)]}
    movie.write_text(json.dumps(content))
    assert num_labels_of(load("mmimdb", mmimdb_folder)) == 25


def test_a_movie_without_plot_lacks_the_text(load, mmimdb_folder):
    movie = mmimdb_folder / "dataset" / "0000001.json"
    movie.write_text(json.dumps({"plot": [], "genres": ["Drama"]}))
    assert load("mmimdb", mmimdb_folder, num_genres=3)["train"][1]["text"] is None


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("dataset/0000002.json", "{", r"0000002\.json: not valid JSON"),
        ("dataset/0000002.json", "[]", r"0000002\.json: a JSON object is expected, not array"),
        ("dataset/0000002.json", '{"genres": []}', r"0000002\.json, field 'plot': a list of strings"),
        ("dataset/0000002.json", '{"plot": ["a"], "genres": "Drama"}', r"0000002\.json, field 'genres'.*'Drama'"),
        ("dataset/0000002.jpeg", "no picture", r"split\.json, row 2, field 'image'.*0000002\.jpeg cannot be read"),
        ("split.json", '{"train": [], "dev": []}', r"split\.json, field 'test': a list of movie ids"),
        ("split.json", '{"train": ["../../x"], "dev": [], "test": []}', "leads out of"),
        ("split.json", '{"train": ["7"], "dev": [], "test": []}', r"7\.json: no such file"),
        (
            "split.json",
            r'{"train": ["\ud800"], "dev": [], "test": []}',
            r"split\.json, row 0, field 'train': .*surrogate",
        ),
        ("dataset/0000002.json", r'{"plot": ["a \ud800"], "genres": []}', r"02\.json, field 'plot': .*surrogate"),
        ("dataset/0000002.json", r'{"plot": ["a"], "genres": ["\ud800"]}', r"02\.json, field 'genres': .*surrogate"),
    ],
)
def test_faults_of_the_folder_are_named(load, mmimdb_folder, file, content, message):
    (mmimdb_folder / file).write_text(content)
    with pytest.raises(DataError, match=message):
        load("mmimdb", mmimdb_folder, num_genres=3)


def test_hdf5_form_with_vgg_features(load, mmimdb_hdf5):
    data = load("mmimdb", mmimdb_hdf5.path)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 7, "validation": 3, "test": 4}
    assert modalities_of(data) == {"text": 300, "vision": 4096}
    assert label_names_of(data) == ["Drama", "Comedy", "Romance", "Thriller", "Crime"]
    with h5py.File(mmimdb_hdf5.path) as file:
        for split, offset in (("train", 0), ("validation", 7), ("test", 10)):
            for index, row in enumerate(data[split]):
                np.testing.assert_array_equal(row["text"], file["features"][offset + index][None])
                np.testing.assert_array_equal(row["vision"], file["vgg_features"][offset + index][None])
                np.testing.assert_array_equal(row["label"], np.flatnonzero(mmimdb_hdf5.genres[offset + index]))
                assert row["id"] == f"{offset + index:07d}"


def test_hdf5_form_gives_the_poster_back(load, mmimdb_hdf5):
    data = load("mmimdb", mmimdb_hdf5.path, poster="pixels")
    assert modalities_of(data) == {"text": 300, "image": "image"}
    for index, row in enumerate(data["train"]):
        # the file holds BGR less the means, truncated to integers: at most one grey level is lost
        assert np.abs(np.asarray(row["image"], dtype=int) - mmimdb_hdf5.rgb[index]).max() <= 1


def test_the_full_file_without_split_table_takes_multibench_ranges(load, tmp_path):
    path = tmp_path / "full.h5"
    with h5py.File(path, "w") as file:
        for name, width in (("features", 2), ("vgg_features", 1), ("genres", 3)):
            file.create_dataset(name, (25959, width), dtype="float32" if name != "genres" else "int32")
        file["imdb_ids"] = np.array([f"{index:07d}" for index in range(25959)], dtype="S7")
    data = load("mmimdb", path)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 15552, "validation": 2608, "test": 7799}
    assert data["validation"][0]["id"] == "0015552"
    assert data["test"][-1]["id"] == "0025958"
    assert label_names_of(data) == ["genre_0", "genre_1", "genre_2"]


def test_nan_features_are_counted_or_replaced(load, mmimdb_hdf5):
    with h5py.File(mmimdb_hdf5.path, "a") as file:
        file["features"][8, 3:5] = np.nan
    with pytest.raises(DataError, match=r"row 8, field 'features': 2 NaN or Inf.*\[8, 3\].*nonfinite='replace'"):
        load("mmimdb", mmimdb_hdf5.path)
    text = load("mmimdb", mmimdb_hdf5.path, nonfinite="replace")["validation"][1]["text"]
    assert (text[0, 3:5] == 0).all()
    assert text[0, 5] != 0


def shorten(file, name):
    values = file[name][:-1]
    del file[name]
    file[name] = values


def replace(file, name, shape, dtype="float32", chunks=None):
    """An array of another shape, which takes no space in the file: nothing is written to it."""
    attributes = dict(file[name].attrs)
    del file[name]
    if shape is None:
        file[name] = h5py.Empty(dtype)
    else:
        file.create_dataset(name, shape, dtype, chunks=chunks, maxshape=(None, *shape[1:]) if chunks else None)
    file[name].attrs.update(attributes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("genres"), "field 'genres': no such array"),
        (lambda file: file.__delitem__("imdb_ids"), "field 'imdb_ids': no such array"),
        (lambda file: shorten(file, "imdb_ids"), "field 'imdb_ids': 13 rows, but 14 in features"),
        (lambda file: shorten(file, "vgg_features"), "field 'vgg_features': 13 rows, but 14 in features"),
        (lambda file: file.attrs.__delitem__("split"), "field 'split'.*it has 14"),
        (lambda file: file.attrs.__setitem__("split", [1, 2]), "not Fuel's table"),
        (lambda file: file["genres"].attrs.__setitem__("target_names", '["one"]'), "must list 5 distinct names"),
        (lambda file: file["genres"].attrs.__setitem__("target_names", "{"), "target_names is not JSON"),
        (lambda file: file["genres"].attrs.__setitem__("target_names", r'["\ud800", "b", "c", "d", "e"]'), "surrogate"),
        (lambda file: file["genres"].__setitem__((11, 0), 2), "row 11, field 'genres'.*neither 0 nor 1"),
        (lambda file: replace(file, "features", (14, 0)), r"'features': the array is empty, of shape \(14, 0\)"),
        (lambda file: replace(file, "vgg_features", (14, 0)), r"'vgg_features': the array is empty"),
        (lambda file: replace(file, "genres", (14, 0)), r"'genres': the array is empty"),
        (lambda file: [replace(file, name, (0, 2)) for name in file], "the array is empty|of 1 dimension"),
        (lambda file: replace(file, "features", (14, 2 * 10**9)), "'features': 2000000000 columns; at most 65536"),
        (lambda file: replace(file, "vgg_features", (14, 65_537)), "'vgg_features': 65537 columns"),
        (lambda file: replace(file, "imdb_ids", (14,), "S100000000"), "'imdb_ids': a row of 100000000 bytes"),
        (
            lambda file: replace(file, "features", (14, 30), chunks=(10**6, 30)),
            "'features': a chunk of 120000000 bytes",
        ),
        (lambda file: replace(file, "features", None), "'features': no such array"),
        (lambda file: replace(file, "features", (14, 30), "complex64"), "'features': an array of numbers of 2 dim"),
        (lambda file: replace(file, "imdb_ids", (14,), "int32"), "'imdb_ids': an array of text of 1 dimension"),
    ],
)
def test_faults_of_the_hdf5_file_are_named(load, mmimdb_hdf5, change, message):
    with h5py.File(mmimdb_hdf5.path, "a") as file:
        change(file)
    with pytest.raises(DataError, match=rf"multimodal_imdb\.hdf5.*{message}"):
        load("mmimdb", mmimdb_hdf5.path)


def test_a_file_of_few_bytes_does_not_hold_many_rows(load, tmp_path):
    path = tmp_path / "bomb.hdf5"
    with h5py.File(path, "w") as file:
        for name, width in (("features", 300), ("vgg_features", 4096), ("genres", 3)):
            file.create_dataset(name, (10**9, width), dtype="float32" if name != "genres" else "int32")
        file.create_dataset("imdb_ids", (10**9,), "S7")
    with pytest.raises(DataError, match=r"bomb\.hdf5, field 'features': .*more than 100 times the file's"):
        load("mmimdb", path)


def wrong_type(content):
    """The type of the attribute target_names, a string of variable length, becomes one that the standard does not have."""
    at = content.index(b"target_names\0\0\0\0\x19") + len(b"target_names\0\0\0\0\x19")
    content[at] = 0xFF


def wrong_heap(content):
    """In the heap where that string lies, the size of the space that is left becomes no multiple of 8."""
    start = content.index(b"GCOL")
    length = int.from_bytes(content[start + 24 : start + 32], "little")
    content[start + 32 + -(-length // 8) * 8 + 8] = 0x7F


@pytest.mark.parametrize(
    ("damage", "message"), [(wrong_type, "makes the HDF5 library crash"), (wrong_heap, "finds no end in reading")]
)
def test_a_file_on_which_the_hdf5_library_crashes_or_never_returns(load, mmimdb_hdf5, monkeypatch, damage, message):
    """With libhdf5 1.14 it does; another release may notice."""
    monkeypatch.setattr(hdf5, "_DESCRIPTION_SECONDS", 1)
    content = bytearray(mmimdb_hdf5.path.read_bytes())
    damage(content)
    mmimdb_hdf5.path.write_bytes(content)
    with pytest.raises(DataError, match=rf"multimodal_imdb\.hdf5: .*({message}|not a readable HDF5 file)"):
        load("mmimdb", mmimdb_hdf5.path)


def test_a_damaged_chunk_is_named(load, mmimdb_hdf5):
    with h5py.File(mmimdb_hdf5.path, "a") as file:
        values = file["vgg_features"][:]
        del file["vgg_features"]
        file.create_dataset("vgg_features", data=values, chunks=(2, 4096), compression="gzip")
        place = file["vgg_features"].id.get_chunk_info(4)  # rows 8 and 9
    content = bytearray(mmimdb_hdf5.path.read_bytes())
    content[place.byte_offset : place.byte_offset + 50] = bytes(50)
    mmimdb_hdf5.path.write_bytes(content)
    with pytest.raises(DataError, match=r"\.hdf5, row 7, field 'vgg_features': not a readable HDF5 file: OSError"):
        load("mmimdb", mmimdb_hdf5.path)


def test_a_file_that_is_cut_off(load, mmimdb_hdf5):
    content = mmimdb_hdf5.path.read_bytes()
    mmimdb_hdf5.path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"multimodal_imdb\.hdf5: not a readable HDF5 file"):
        load("mmimdb", mmimdb_hdf5.path)


@pytest.mark.parametrize("kind", ["external link", "external storage"])
def test_hdf5_arrays_that_lie_in_another_file_are_refused(load, mmimdb_hdf5, kind):
    with h5py.File(mmimdb_hdf5.path, "a") as file:
        del file["features"]
        if kind == "external link":
            file["features"] = h5py.ExternalLink("/etc/hostname", "features")
        else:
            file.create_dataset("features", (14, 1), "u1", external=[("/etc/hostname", 0, 14)])
    with pytest.raises(DataError, match="field 'features': no such array"):
        load("mmimdb", mmimdb_hdf5.path)


def test_no_hdf5_file_at_all(load, tmp_path):
    (tmp_path / "broken.hdf5").write_text("text")
    with pytest.raises(DataError, match=r"broken\.hdf5: not a readable HDF5 file"):
        load("mmimdb", tmp_path / "broken.hdf5")


def test_a_file_of_another_kind(load, write_pickle):
    with pytest.raises(DataError, match=r"data\.pkl: this is a file; the folder, or a file with the suffix \.hdf5 or"):
        load("mmimdb", write_pickle({}))


def test_options_of_the_other_form_are_refused(load, mmimdb_folder, mmimdb_hdf5):
    with pytest.raises(DataError, match=r"'num_genres'.*folder form"):
        load("mmimdb", mmimdb_hdf5.path, num_genres=5)
    with pytest.raises(DataError, match=r"'poster'.*HDF5 form"):
        load("mmimdb", mmimdb_folder, poster="vgg")
