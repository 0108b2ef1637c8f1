"""`nyu-depth`: scenes in colour and depth (NYU Depth v2, SUN RGB-D), one folder per class.

    folder/{train,val,test}/rgb/CLASS/NAME.png       and .../depth/CLASS/NAME.png beside it; or
    folder/rgb/{train,val,test}/CLASS/NAME.png       and folder/depth/...; or
    folder/{train,val,test}/CLASS/NAME.png           colour and depth side by side, as QMF's code has it

`image` is the picture in colour, `depth` that of depth. Depth in 16 bits is brought to 8; where it is coded in colours
(HHA) it stays so.
"""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from datasets import ClassLabel, Features, Image, Value

from ..errors import DataError, shown
from ..pictures import opened_picture
from ..schema import SPLITS, Source
from ..splitting import draw_parts
from .files import ImageChecker, require_folder
from .options import require_integer, require_positive

_ENDINGS = (".png", ".jpg", ".jpeg")
_SPLIT_FOLDERS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
_DEEP_MODES = ("I", "I;16", "I;16B", "F")


class Scene(NamedTuple):
    """A sample's files; without `depth` both halves are in `rgb`. `id` is split/class/name."""

    id: str
    rgb: Path
    depth: Path | None
    label: str


def open_source(
    path: Path,
    label_names: list[str] | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    depth_range: float = 10_000.0,
) -> Source:
    """Open a folder of scenes in colour and depth.

    Args:
        path (`Path`): The folder.
        label_names (`list[str]`, *optional*): The classes in the order of their ids; by default the training split's
            folders, sorted.
        validation_fraction (`float`): Share of the training scenes that become the validation split, by class, where there
            is no folder of one.
        seed (`int`): Seed of that draw.
        depth_range (`float`): What depth in 16 bits is white at: 10000, ten metres in millimetres, as Kinect's are.
    """
    require_folder(path, "the folder of train/ and test/")
    require_integer("seed", seed, 0, 2**32 - 1)
    require_positive("depth_range", depth_range)
    scenes = {split: _scenes(path, names) for split, names in _SPLIT_FOLDERS.items()}
    for split in ("train", "test"):
        if not scenes[split]:
            looked = f"{split}/CLASS/NAME.png, {split}/rgb/CLASS/NAME.png nor rgb/{split}/CLASS/NAME.png"
            raise DataError(f"the {split} split is missing: there is neither {looked}", file=path)
    if not scenes["validation"]:
        train = scenes["train"]
        parts = draw_parts(
            len(train), {"validation": validation_fraction}, seed, classes=[scene.label for scene in train]
        )
        scenes |= {"train": [train[i] for i in parts["rest"]], "validation": [train[i] for i in parts["validation"]]}
    found = sorted({scene.label for scene in scenes["train"]})
    classes = ClassLabel(names=[str(name) for name in label_names] if label_names else found)
    features = Features({"id": Value("string"), "image": Image(), "depth": Image(), "label": classes})
    rows = partial(_rows, classes=classes, depth_range=float(depth_range), images=ImageChecker())
    return Source(features, {split: partial(rows, scenes[split]) for split in SPLITS})


def _scenes(root: Path, names: tuple[str, ...]) -> list[Scene]:
    for name in names:
        for rgb, depth in ((root / name / "rgb", root / name / "depth"), (root / "rgb" / name, root / "depth" / name)):
            if rgb.is_dir():
                require_folder(depth, "the depth of the pictures in rgb/")
                return [
                    Scene(f"{name}/{label}/{path.stem}", path, _depth_of(path, rgb, depth), label)
                    for label, path in _pictures(rgb)
                ]
        if (root / name).is_dir():
            return [Scene(f"{name}/{label}/{path.stem}", path, None, label) for label, path in _pictures(root / name)]
    return []


def _pictures(folder: Path) -> Iterator[tuple[str, Path]]:
    """Class and path of every picture in the classes' folders, in the order of their names."""
    for of_class in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        for path in sorted(of_class.iterdir()):
            if path.suffix.lower() in _ENDINGS:
                yield of_class.name, path


def _depth_of(picture: Path, rgb: Path, depth: Path) -> Path:
    place = depth / picture.relative_to(rgb).parent
    for ending in _ENDINGS:
        if (place / (picture.stem + ending)).is_file():
            return place / (picture.stem + ending)
    raise DataError(f"its depth is missing: there is no {picture.stem}.png in {place}", file=picture)


def _rows(
    scenes: list[Scene], classes: ClassLabel, depth_range: float, images: ImageChecker
) -> Iterator[dict[str, Any]]:
    for scene in scenes:
        if scene.label not in classes.names:
            raise DataError(f"{shown(scene.label)} is none of the classes {shown(classes.names)}", file=scene.rgb)
        if scene.depth is None:
            colour, depth = _halves(scene.rgb)
        else:
            colour, depth = images.cell(scene.rgb, file=scene.rgb), _depth_cell(scene.depth, depth_range, images)
        yield {"id": scene.id, "image": colour, "depth": depth, "label": classes.str2int(scene.label)}


def _halves(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The left half of a picture, and the right one."""
    with opened_picture(path, file=path) as picture:
        whole = picture.convert("RGB")
    if whole.width < 2 or whole.width % 2:
        raise DataError(f"colour and depth side by side are of one width, but {whole.width} pixels are odd", file=path)
    half = whole.width // 2
    return _png(whole.crop((0, 0, half, whole.height))), _png(whole.crop((half, 0, whole.width, whole.height)))


def _depth_cell(path: Path, depth_range: float, images: ImageChecker) -> dict[str, Any]:
    with opened_picture(path, file=path) as picture:
        if picture.mode not in _DEEP_MODES:
            return images.cell(path, file=path)
        depth = np.asarray(picture, dtype=np.float32)
    grey = np.clip(np.nan_to_num(depth) * (255 / depth_range), 0, 255).astype(np.uint8)
    return _png(PIL.Image.fromarray(grey))


def _png(picture: PIL.Image.Image) -> dict[str, Any]:
    content = BytesIO()
    picture.save(content, format="PNG")
    return {"path": None, "bytes": content.getvalue()}
