"""Spoken and handwritten digits: hostile files, frames, pairs and folds."""

import gzip
import os
import resource
import struct
import wave
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank, spectrogram

from hf_mmalign.data.audio import LogMel
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.readers.digits_av import open_source, read_pictures, read_recording
from hf_mmalign.data.schema import SPLITS, modalities_of

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
SPEAKERS = ("george", "jackson", "lucas", "theo")


def zipped(content: bytes) -> bytes:
    """Without gzip's time stamp, which would give a parametrised test another id every second."""
    return gzip.compress(content, mtime=0)


def write_wav(path, samples, rate=8000, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", "not compressed"))
        file.writeframes(np.asarray(samples, "<i2").tobytes())


def promise(path, size, channels=1):
    """Let a wav file's header promise as many bytes of samples, of as many channels."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, 22, channels)
    struct.pack_into("<I", content, 40, size)
    struct.pack_into("<I", content, 4, min(size + 36, 2**32 - 1))  # the whole, or reading would end there
    path.write_bytes(content)


def write_idx(path, array, magic=None):
    header = struct.pack(">I", magic or 0x0800 + array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def digits_av(tmp_path):
    """Two recordings of each digit by four speakers, and 200 pictures whose first pixels are their number."""
    folder = tmp_path / "digits-av"
    (folder / "recordings").mkdir(parents=True)
    rng = np.random.RandomState(0)
    for speaker in SPEAKERS:
        for digit in range(10):
            for index in range(2):
                samples = rng.randint(-3000, 3000, 400 + 100 * digit)
                write_wav(folder / "recordings" / f"{digit}_{speaker}_{index}.wav", samples)
    pictures = rng.randint(0, 256, (200, 28, 28)).astype(np.uint8)
    pictures[:, 0, 0] = np.arange(200)
    write_idx(folder / IMAGES, pictures)
    write_idx(folder / LABELS, (np.arange(200) % 10).astype(np.uint8))
    return folder


def rows_of(path, **options):
    source = open_source(path, **options)
    return {split: list(source.splits[split]()) for split in SPLITS}


def test_rows(load, digits_av):
    data = load("digits-av", digits_av, fold=1)
    assert modalities_of(data) == {"audio": 40, "picture": 28}
    assert {split: len(rows) for split, rows in data.items()} == {"train": 40, "validation": 20, "test": 20}
    assert data["train"]["label"][:10].tolist() == list(range(10))  # a shortened split has all classes
    pictures, digits = read_pictures(digits_av / IMAGES, digits_av / LABELS)
    for row in data["test"]:
        recording, picture = row["id"].rsplit("-", 1)
        assert recording.split("_")[:2] == [str(row["label"]), "jackson"]
        assert digits[int(picture)] == row["label"]
        np.testing.assert_array_equal(row["picture"], (pictures[int(picture)] / 255).astype(np.float32))
        assert row["audio"].shape == (1 + (400 + 100 * row["label"] - 200) // 80, 40)


def test_no_speaker_and_no_picture_is_in_two_splits(digits_av):
    for fold in range(4):
        rows = rows_of(digits_av, fold=fold)
        speakers = {split: {row["id"].split("_")[1] for row in rows[split]} for split in SPLITS}
        assert speakers["test"] == {SPEAKERS[fold]}
        assert speakers["validation"] == {SPEAKERS[(fold + 1) % 4]}
        assert speakers["train"] == set(SPEAKERS) - speakers["test"] - speakers["validation"]
        pictures = {split: {row["id"].split("-")[1] for row in rows[split]} for split in SPLITS}
        assert all(pictures[one].isdisjoint(pictures[other]) for one, other in combinations(SPLITS, 2))
        assert len(pictures["train"]) == 40  # none twice while others are unused


def test_the_draw_hangs_on_its_seed(digits_av):
    ids = [[row["id"] for row in rows_of(digits_av, seed=seed)["train"]] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_log_mel_equals_the_stock_spectrogram():
    samples = np.random.RandomState(0).uniform(-1, 1, 1700)
    stock = spectrogram(
        samples,
        np.hanning(201)[:-1],
        frame_length=200,
        hop_length=80,
        fft_length=512,
        power=2.0,
        center=False,
        mel_filters=mel_filter_bank(257, 40, 0.0, 4000.0, 8000),
        log_mel="log",
    )
    np.testing.assert_allclose(LogMel(8000, 40, 25.0, 10.0)(samples), stock.T, rtol=1e-4, atol=1e-4)


def test_a_tone_lies_in_its_filter():
    tone = np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42)[1:-1] / 2595) - 1)
    assert set(LogMel(8000, 40, 25, 10)(tone).argmax(axis=1)) == {np.abs(centres - 1000).argmin()}


def test_silence_is_finite():
    assert np.isfinite(LogMel(8000, 40, 25, 10)(np.zeros(800))).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 4}, "field 'fold': an integer from 0 to 3"),
        ({"seed": -1}, "field 'seed'"),
        ({"n_mels": 0}, "field 'n_mels': an integer from 1 to 256"),
        ({"n_mels": 256}, "256 filters are too many"),
        ({"window_ms": "25"}, "field 'window_ms': a number above 0"),
        ({"hop_ms": 0.01}, "a hop of at least 0.125 ms"),
        ({"window_ms": 100}, r"0_.*\.wav: 400 samples are shorter than one window of 800"),
    ],
)
def test_wrong_option_values_are_refused(load, digits_av, options, message):
    with pytest.raises(DataError, match=message):
        load("digits-av", digits_av, **options)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: write_wav(path, [0] * 900, rate=16000), r"not \(16000, 1, 16\)"),
        (lambda path: write_wav(path, [0] * 900, channels=2), r"not \(8000, 2, 16\)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "ends before its 400 samples do"),
        (lambda path: promise(path, 2**32 - 1), "ends before its 2147483647 samples do, after 844 bytes"),
        (lambda path: promise(path, 2**32 - 1, channels=2**16 - 1), r"not \(8000, 65535, 16\)"),
        (lambda path: write_wav(path, [0] * (60 * 8000 + 1)), "60 seconds; a spoken digit, at most 60 seconds long"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file"),
        (lambda path: path.write_bytes(b""), "no readable wav file: it ends too early"),
        (lambda path: path.write_bytes(b"\x00" * 500), "no readable wav file"),
    ],
)
def test_a_spoilt_recording_is_named(tmp_path, spoil, message):
    path = tmp_path / "0_theo_0.wav"
    write_wav(path, np.arange(400))
    np.testing.assert_array_equal(read_recording(path), np.arange(400) / 32768)
    spoil(path)
    with pytest.raises(DataError, match=rf"0_theo_0\.wav: .*{message}"):
        read_recording(path)


def test_a_header_of_4_gb_takes_no_memory(tmp_path):
    path = tmp_path / "0_theo_0.wav"
    write_wav(path, np.arange(400))
    promise(path, 2**32 - 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, hard))
    try:
        with pytest.raises(DataError, match="ends before its 2147483647 samples do"):
            read_recording(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_file_name_that_is_no_text_is_refused(load, digits_av):
    recording = digits_av / "recordings" / "3_theo_1.wav"
    recording.rename(os.fsdecode(os.fsencode(recording).replace(b"theo", b"the\xff")))
    with pytest.raises(DataError, match=r"row \d+, field 'train\.id': half of a surrogate pair"):
        load("digits-av", digits_av, fold=0)


def test_a_file_of_another_name_is_refused(digits_av):
    (digits_av / "recordings" / "george.wav").touch()
    with pytest.raises(DataError, match=r"george\.wav: the name of a recording must be"):
        open_source(digits_av)


PICTURES = np.zeros((3, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (IMAGES, zipped(b"\0\0\x08\x03"), "ends within its header"),
        (IMAGES, zipped(struct.pack(">4I", 0x0802, 3, 28, 28)), "0x00000803, not 0x00000802"),
        (IMAGES, zipped(struct.pack(">4I", 0x0803, 3, 27, 28)), r"not 3 of \(27, 28\)"),
        (IMAGES, zipped(struct.pack(">4I", 0x0803, 2**31, 28, 28)), "not 2147483648 of"),
        (
            IMAGES,
            zipped(struct.pack(">4I", 0x0803, 3, 28, 28) + bytes(5)),
            "promises 2352 bytes, the file has 5",
        ),
        (IMAGES, zipped(struct.pack(">4I", 0x0803, 3, 28, 28) + bytes(9999)), "the file has more"),
        (IMAGES, b"no gzip at all", "no readable gzip file"),
        (IMAGES, zipped(struct.pack(">4I", 0x0803, 3, 28, 28) + bytes(2352))[:-10], "no readable gzip file"),
        (LABELS, zipped(struct.pack(">2I", 0x0801, 2) + bytes(2)), "2 labels, but 3 pictures"),
        (LABELS, zipped(struct.pack(">2I", 0x0801, 3) + b"\0\1\x0a"), "row 2.*from 0 to 9 is expected, not 10"),
    ],
)
def test_spoilt_pictures_are_named(tmp_path, file, content, message):
    write_idx(tmp_path / IMAGES, PICTURES)
    write_idx(tmp_path / LABELS, np.zeros(3, np.uint8))
    read_pictures(tmp_path / IMAGES, tmp_path / LABELS)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=rf"{file}.*{message}"):
        read_pictures(tmp_path / IMAGES, tmp_path / LABELS)


def test_the_real_pictures_and_a_real_recording(shared_data):
    folder = shared_data / "digits-av"
    pictures, digits = read_pictures(folder / IMAGES, folder / LABELS)
    assert pictures.shape == (10000, 28, 28)
    assert np.bincount(digits).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    frames = LogMel(8000, 40, 25, 10)(read_recording(folder / "recordings" / "7_theo_3.wav"))
    assert frames.std() > 1
