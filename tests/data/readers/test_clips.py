"""CREMA-D, AVE and Kinetics-Sounds: lists, sounds and frames in their usual places."""

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

from hf_mmalign.data.audio import LogMel
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.schema import label_names_of, modalities_of
from hf_mmalign.data.sounds import to_waveform

RATE = 16_000
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")


def write_sound(path: Path, samples: int = 3200, seed: int = 0, rate: int = RATE) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)
    soundfile.write(path, sound, rate)
    return sound


def write_frames(folder: Path, count: int = 3, pattern: str = "frame_{:05d}.jpg", size=(32, 24)) -> None:
    """Frames whose grey tells their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        PIL.Image.new("RGB", size, (40 * number,) * 3).save(folder / pattern.format(number))


def grey(picture: PIL.Image.Image) -> int:
    """The number of a frame."""
    return round(np.asarray(picture.convert("L")).mean() / 40)


def crema_names(actors: range, per_actor: int = 1) -> list[str]:
    return [f"{actor}_IEO_{emotion}_{take}" for actor in actors for emotion in EMOTIONS for take in range(per_actor)]


@pytest.fixture
def crema_d(tmp_path):
    """Four actors for training, one for testing, one for validation, with a clip of each emotion."""
    folder = tmp_path / "CREMA-D"
    folder.mkdir()
    for split, first, end in (("train", 1001, 1005), ("test", 1005, 1006), ("val", 1006, 1007)):
        names = crema_names(range(first, end))
        lines = [f"{name},{name.split('_')[2]}" for name in names]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
        for index, name in enumerate(names):
            write_sound(folder / "AudioWAV" / f"{name}.wav", seed=index)
            write_frames(folder / "Image-01-FPS" / name)
    return folder


@pytest.fixture
def ave(tmp_path):
    """Videos of a few categories, one of which has two events."""
    folder = tmp_path / "AVE"
    folder.mkdir()
    header = "Category&VideoID&Quality&StartTime&EndTime\n"
    lines = {
        "trainSet": [
            "Church bell&RUhOCu3LNXM&good&0&10",
            "Bark&-_AAKbwtk8U&good&2&5",
            "Church bell&-_AAKbwtk8U&good&6&9",
        ],
        "valSet": ["Bark&val_video1&good&0&10"],
        "testSet": ["Bark&test.video&good&0&10", "Helicopter&helicopter01&good&1&4"],
    }
    for name, rows in lines.items():
        (folder / f"{name}.txt").write_text((header if name == "trainSet" else "") + "\n".join(rows) + "\n")
        for row in rows:
            video = row.split("&")[1]
            write_sound(folder / "audio" / f"{video}.wav")
            write_frames(folder / "visual" / video)
    return folder


@pytest.fixture
def kinetics_sounds(tmp_path):
    """OGM-GE's lists and folders."""
    folder = tmp_path / "KS"
    for split, count in (("train", 8), ("test", 3)):
        names = [f"-{split}{index}abc_{index}" for index in range(count)]
        folder.mkdir(exist_ok=True)
        lines = [f"{name},10,{index % 2 * 3}" for index, name in enumerate(names)]
        (folder / f"my_{split}.txt").write_text("\n".join(lines) + "\n")
        for name in names:
            write_sound(folder / split / name / f"{name}.wav")
            write_frames(folder / split / name)
    return folder


def test_crema_d(load, crema_d):
    data = load("crema-d", crema_d)
    assert modalities_of(data) == {"audio": 64, "image": "image"}
    assert label_names_of(data) == list(EMOTIONS)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 24, "validation": 6, "test": 6}
    row = data["test"].with_format(None)[4]
    assert (row["id"], row["label"], row["group"]) == ("1005_IEO_DIS_0", 4, "1005")
    assert row["image"].filename.endswith("Image-01-FPS/1005_IEO_DIS_0/frame_00002.jpg")
    sound, _ = soundfile.read(crema_d / "AudioWAV" / "1005_IEO_DIS_0.wav", dtype="float32")
    np.testing.assert_allclose(data["test"][4]["audio"], LogMel(RATE, 64, 25.0, 10.0)(sound), rtol=1e-5)


def test_folds_keep_an_actor_together(load, crema_d):
    data = load("crema-d", crema_d, folds=6, fold=1)
    groups = [set(rows["group"][:]) for rows in data.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 6


def test_validation_is_drawn_by_class_where_there_is_no_list_of_one(load, crema_d):
    (crema_d / "val.csv").unlink()
    data = load("crema-d", crema_d, validation_fraction=0.25)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 18, "validation": 6, "test": 6}
    assert sorted(data["validation"]["label"][:].tolist()) == list(range(6))
    assert not set(data["validation"]["id"][:]) & set(data["train"]["id"][:])
    other = load("crema-d", crema_d, validation_fraction=0.25, seed=1)
    assert set(data["validation"]["id"][:]) != set(other["validation"]["id"][:])


def test_ave(load, ave):
    data = load("ave", ave, audio={"n_mels": 20, "sampling_rate": 8000})
    assert modalities_of(data) == {"audio": 20, "image": "image"}
    assert label_names_of(data) == ["Bark", "Church bell", "Helicopter"]
    assert list(data["train"]["group"]) == ["RUhOCu3LNXM", "-_AAKbwtk8U", "-_AAKbwtk8U"]
    assert data["train"]["label"][:].tolist() == [1, 0, 1]
    assert len(set(data["train"]["id"])) == 3
    assert list(data["test"]["group"]) == ["test.video", "helicopter01"]
    others = load("ave", ave, label_names=["Helicopter", "Church bell", "Bark"])
    assert others["train"]["label"][:].tolist() == [1, 2, 1]


def test_kinetics_sounds(load, kinetics_sounds):
    data = load("kinetics-sounds", kinetics_sounds, validation_fraction=0.25)
    assert label_names_of(data) == ["0", "1", "2", "3"]
    assert {split: len(rows) for split, rows in data.items()} == {"train": 6, "validation": 2, "test": 3}
    assert data["test"]["label"][:].tolist() == [0, 3, 0]
    named = load("kinetics-sounds", kinetics_sounds, validation_fraction=0.25, label_names=["a", "b", "c", "d"])
    assert named["test"]["label"][:].tolist() == [0, 3, 0]


def test_balance_benchmarks_list_and_folders(load, kinetics_sounds):
    """Blanks between, endings at the names, class names; sounds and frames by split."""
    for split in ("train", "test"):
        rows = [line.split(",") for line in (kinetics_sounds / f"my_{split}.txt").read_text().splitlines()]
        lines = [f"{name}.mp4 10 {'tap' if label == '0' else 'bowl'}" for name, _, label in rows]
        (kinetics_sounds / f"ks_{split}_overlap.txt").write_text("\n".join(lines))
        (kinetics_sounds / f"my_{split}.txt").unlink()
        for name, _, _ in rows:
            moved = kinetics_sounds / "visual" / split / name
            shutil.move(kinetics_sounds / split / name, moved)
            (kinetics_sounds / "audio" / split).mkdir(parents=True, exist_ok=True)
            shutil.move(moved / f"{name}.wav", kinetics_sounds / "audio" / split / f"{name}.wav")
    data = load("kinetics-sounds", kinetics_sounds, validation_fraction=0.25)
    assert label_names_of(data) == ["bowl", "tap"]
    assert all(len(row["audio"]) and row["image"] is not None for rows in data.values() for row in rows)


@pytest.mark.parametrize(("frames", "expected"), [(1, [6]), (2, [3, 8]), (3, [2, 6, 9]), (10, list(range(1, 11)))])
def test_frames_are_evenly_spaced_and_side_by_side(load, crema_d, frames, expected):
    name = crema_names(range(1005, 1006))[0]
    shutil.rmtree(crema_d / "Image-01-FPS" / name)
    folder = crema_d / "Image-01-FPS" / name
    folder.mkdir()
    for number in range(1, 11):  # frame_10 comes behind frame_9
        PIL.Image.new("RGB", (32, 24), (20 * number,) * 3).save(folder / f"frame_{number}.png")
    picture = load("crema-d", crema_d, frames=frames)["test"].with_format(None)[0]["image"]
    assert picture.size == (32 * frames, 24)
    greys = np.asarray(picture.convert("L"), dtype=float)
    found = [round(greys[:, 32 * part + 8 : 32 * part + 24].mean() / 20) for part in range(frames)]
    assert found == expected


def test_a_clip_may_lack_one_of_the_two(load, crema_d):
    silent, unseen, *_ = crema_names(range(1005, 1006))
    (crema_d / "AudioWAV" / f"{silent}.wav").unlink()
    shutil.rmtree(crema_d / "Image-01-FPS" / unseen)
    test = load("crema-d", crema_d)["test"].with_format(None)
    assert len(test[0]["audio"]) == 0
    assert test[0]["image"] is not None
    assert len(test[1]["audio"]) > 0
    assert test[1]["image"] is None
    assert load("crema-d", crema_d, drop_missing=True)["test"]["id"][:].tolist() == crema_names(range(1005, 1006))[2:]


def test_other_sounds(load, crema_d):
    """FLAC, another rate, two channels: one channel at the rate that is asked for."""
    name = crema_names(range(1005, 1006))[0]
    (crema_d / "AudioWAV" / f"{name}.wav").unlink()
    tone = np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    soundfile.write(crema_d / "AudioWAV" / f"{name}.flac", np.stack([tone, tone], axis=1) * 0.5, 44_100)
    frames = load("crema-d", crema_d)["test"][0]["audio"]
    assert frames.shape == (98, 64)
    assert frames.mean(axis=0).argmax() == pytest.approx(64 * np.log(1 + 440 / 700) / np.log(1 + 8000 / 700), abs=1.5)


def test_sounds_left_raw(load, crema_d):
    """For encoders that take waveforms; a clip without sound has none."""
    missing, broken = crema_names(range(1005, 1006))[:2]
    (crema_d / "AudioWAV" / f"{missing}.wav").unlink()
    data = load("crema-d", crema_d, audio="raw")["test"]
    assert modalities_of(data) == {"audio": "audio", "image": "image"}
    sounds = {row["id"]: row["audio"] for row in data}
    assert sounds.pop(missing) is None
    assert {len(to_waveform(sound, RATE)) for sound in sounds.values()} == {3200}
    (crema_d / "AudioWAV" / f"{broken}.wav").write_bytes(b"no sound")
    (crema_d / "test.csv").write_text((crema_d / "test.csv").read_text() + "\n")
    with pytest.raises(DataError, match=rf"field '{broken}\.wav': the sound cannot be read"):
        load("crema-d", crema_d, audio="raw")


def replaced(folder: Path, name: str, old: str, new: str) -> Path:
    path = folder / name
    text = path.read_text(encoding="utf-8-sig")
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def test_lines_that_are_none(load, crema_d, ave, kinetics_sounds):
    file = replaced(crema_d, "train.csv", "1001_IEO_HAP_0,HAP", "1001_IEO_HAP_0,JOY")
    with pytest.raises(DataError, match=r"CLIP,EMOTION with one of NEU, HAP.*JOY") as error:
        load("crema-d", crema_d)
    assert (error.value.file, error.value.row) == (str(file), 2)
    file = replaced(ave, "valSet.txt", "&good", "")
    with pytest.raises(DataError, match="Category&VideoID&Quality&StartTime&EndTime is expected") as error:
        load("ave", ave)
    assert (error.value.file, error.value.row) == (str(file), 1)
    file = replaced(kinetics_sounds, "my_test.txt", "-test1abc_1,10,3", "-test1abc_1")
    with pytest.raises(DataError, match="a line from NAME to class is expected") as error:
        load("kinetics-sounds", kinetics_sounds)
    assert (error.value.file, error.value.row) == (str(file), 2)


@pytest.mark.parametrize(("name", "message"), [
    ("../../etc/passwd", "leads out of the data set's folder"),
    ("absent", "no sound .* and no folder of frames .* for 'absent'"),
    ("filmed", "filmed.flv is there, but videos are not decoded: extract its sound and frames"),
    ("{split}", "no sound .* for '{split}'"),
])  # fmt: skip
def test_names_without_files(load, crema_d, name, message):
    (crema_d / "VideoFlash").mkdir()
    (crema_d / "VideoFlash" / "filmed.flv").write_bytes(b"")
    file = replaced(crema_d, "test.csv", "1005_IEO_HAP_0,HAP", f"{name},HAP")
    with pytest.raises(DataError, match=message) as error:
        load("crema-d", crema_d)
    assert (error.value.file, error.value.row) == (str(file), 2)


def test_damaged_sounds_and_pictures(load, crema_d):
    name = crema_names(range(1005, 1006))[1]
    frame = crema_d / "Image-01-FPS" / name / "frame_00002.jpg"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:200])
    for frames in (1, 3):
        with pytest.raises(DataError, match=r"frame_00002.jpg cannot be read") as error:
            load("crema-d", crema_d, frames=frames)
        assert error.value.row == 2
    frame.write_bytes(whole)
    sound = crema_d / "AudioWAV" / f"{name}.wav"
    sound.write_bytes(b"RIFF" + b"\0" * 40)
    with pytest.raises(DataError, match="the sound cannot be read") as error:
        load("crema-d", crema_d)
    assert (error.value.row, error.value.field) == (2, f"{name}.wav")
    write_sound(sound, samples=100)
    with pytest.raises(DataError, match="100 samples are shorter than one window of 400"):
        load("crema-d", crema_d)


def test_a_clip_in_two_splits_is_refused(load, crema_d):
    first = (crema_d / "train.csv").read_text(encoding="utf-8-sig").splitlines()[0]
    (crema_d / "test.csv").write_text(first + "\n")
    with pytest.raises(DataError, match=r"'1001_IEO_NEU_0' is a test clip, and in train.csv too"):
        load("crema-d", crema_d)


def test_lists_that_are_missing_or_empty(load, crema_d):
    (crema_d / "test.csv").write_text("\n")
    with pytest.raises(DataError, match="has no clips"):
        load("crema-d", crema_d)
    (crema_d / "test.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not valid UTF-8"):
        load("crema-d", crema_d)
    (crema_d / "test.csv").unlink()
    with pytest.raises(DataError, match=r"the test split is missing: the folder holds none of test.csv"):
        load("crema-d", crema_d)


@pytest.mark.parametrize(("options", "message"), [
    ({"frames": 0}, "an integer from 1 to 16"),
    ({"drop_missing": "yes"}, "true or false"),
    ({"audio": {"mels": 3}}, "'mels' is none of"),
    ({"validation_fraction": 2}, "between 0 and 1"),
])  # fmt: skip
def test_bad_options(load, crema_d, options, message):
    (crema_d / "val.csv").unlink()
    with pytest.raises(DataError, match=message):
        load("crema-d", crema_d, **{"validation_fraction": 0.25} | options)
