"""How2 in its layout, with Kaldi's matrices of every kind, written here byte by byte."""

import struct

import numpy as np
import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.kaldi import read_matrix
from hf_mmalign.data.loading import load_multimodal_dataset
from hf_mmalign.data.schema import modalities_of, problem_type_of

SIZES = {"train": 4, "val": 2, "dev5": 2}


def plain(values):
    rows, columns = values.shape
    sizes = b"\4" + struct.pack("<i", rows) + b"\4" + struct.pack("<i", columns)
    return b"\0BFM " + sizes + values.astype("<f4").tobytes()


def compressed(values, kind):
    """`CM2` and `CM3`: equal steps between the smallest and the largest number."""
    smallest, whole = values.min(), np.ptp(values)
    top, width = (65535, "<u2") if kind == b"CM2 " else (255, "u1")
    codes = np.rint((values - smallest) / whole * top).astype(width)
    return b"\0B" + kind + struct.pack("<ffii", smallest, whole, *values.shape) + codes.tobytes()


@pytest.fixture
def folder(tmp_path):
    return write_how2(tmp_path / "how2-300h-v1")


def write_how2(root):
    """A small folder of the layout; each split's first sentence has no speech."""
    video, speech = root / "features" / "resnext101-action-avgpool-300h", root / "fbank_pitch"
    video.mkdir(parents=True)
    speech.mkdir()
    rng = np.random.default_rng(0)
    lines, content = [], b""
    for split, size in SIZES.items():
        (root / "data" / split).mkdir(parents=True)
        names = [f"{split}_{index}" for index in range(size)]
        for language in ("en", "pt"):
            text = "".join(f"{name} {language} sentence of {name}\n" for name in names)
            (root / "data" / split / f"text.id.{language}").write_text(text, encoding="utf-8")
        np.save(video / f"{split}.npy", rng.normal(size=(size, 8)).astype(np.float32))
        for index, name in enumerate(names[1:], start=1):
            content += f"{name} ".encode()
            lines.append(f"{name} /elsewhere/of/its/maker/raw.1.ark:{len(content)}\n")
            content += plain(np.full((index + 1, 3), index, np.float32))
    (speech / "raw.1.ark").write_bytes(content)
    (speech / "raw.scp").write_text("".join(lines))
    return root


def load(root, tmp_path, **options):
    return load_multimodal_dataset("how2", root, cache_dir=tmp_path / "cache", **options)


def test_rows_are_joined_by_id_with_video_by_line_and_speech_by_index(folder, tmp_path):
    data = load(folder, tmp_path, video=True, speech=True)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 4, "validation": 2, "test": 2}
    assert problem_type_of(data) == "translation"
    assert modalities_of(data) == {"text": "text", "video": 8, "speech": 3}
    row = data["train"][2]
    assert (row["id"], row["text"], row["target"]) == ("train_2", "en sentence of train_2", "pt sentence of train_2")
    whole = np.load(folder / "features/resnext101-action-avgpool-300h/train.npy")
    np.testing.assert_array_equal(row["video"], whole[2:3])
    np.testing.assert_array_equal(row["speech"], np.full((3, 3), 2))
    assert data["train"][0]["speech"].shape == (0, 3)  # no index names it
    pooled = load(folder, tmp_path, speech="fbank_pitch/*.scp", speech_pooling="mean")
    np.testing.assert_array_equal(pooled["train"][3]["speech"], np.full((1, 3), 3))


def test_text_alone_needs_neither(folder, tmp_path):
    assert modalities_of(load(folder, tmp_path, source="pt", target="en")) == {"text": "text"}


@pytest.mark.parametrize("kind", [b"CM2 ", b"CM3 "])
def test_compressed_matrices_are_as_close_as_their_steps(tmp_path, kind):
    values = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    (tmp_path / "a.ark").write_bytes(b"id " + compressed(values, kind))
    step = np.ptp(values) / (65535 if kind == b"CM2 " else 255)
    np.testing.assert_allclose(read_matrix(tmp_path / "a.ark", 3), values, atol=step)


def test_columns_compressed_by_quartiles(tmp_path):
    """Codes 0, 64, 192 and 255 are a column's minimum, quartiles and maximum; between them it is linear."""
    header = struct.pack("<ffii", -1.0, 2.0, 5, 1) + struct.pack("<4H", 0, 16384, 49151, 65535)
    (tmp_path / "a.ark").write_bytes(b"\0BCM " + header + bytes([0, 64, 192, 255, 128]))
    expected = [-1.0, -1 + 2 * 16384 / 65535, -1 + 2 * 49151 / 65535, 1.0, 0.0]
    np.testing.assert_allclose(read_matrix(tmp_path / "a.ark", 0)[:, 0], expected, atol=1e-4)


def command(root):
    (root / "fbank_pitch/raw.scp").write_text("train_0 touch /tmp/never |:0\n")


def outside(root):
    (root.parent / "other.ark").write_bytes(plain(np.ones((1, 3))))
    (root / "fbank_pitch/raw.scp").write_text("train_0 ../../other.ark:0\n")


def cut(root):
    file = root / "fbank_pitch/raw.1.ark"
    file.write_bytes(file.read_bytes()[:20])


def huge(root):
    sizes = b"\4" + struct.pack("<i", 1 << 30) + b"\4" + struct.pack("<i", 1 << 30)
    (root / "fbank_pitch/raw.1.ark").write_bytes(b"\0BFM " + sizes)
    (root / "fbank_pitch/raw.scp").write_text("train_0 raw.1.ark:0\n")


def unpaired(root):
    (root / "data/train/text.id.pt").write_text("other uma frase\n")


def fewer(root):
    np.save(root / "features/resnext101-action-avgpool-300h/train.npy", np.zeros((3, 8)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (command, "`ID FILE.ark:OFFSET` is expected"),
        (outside, "other.ark is not in"),
        (cut, "raw.1.ark.*the file ends before it does"),
        (huge, "it says that it is of size"),
        (unpaired, "there is no 'train_0'"),
        (fewer, "3 rows, but text.id.en has"),
    ],
)
def test_what_is_amiss_is_named(folder, tmp_path, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message):
        load(folder, tmp_path, video=True, speech=True)


def test_options_that_cannot_be_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"split.* is expected in the file's name"):
        load(folder, tmp_path, video="train.npy")
    with pytest.raises(DataError, match="no utterance is in the files"):
        load(folder, tmp_path, speech="nowhere/*.scp")
