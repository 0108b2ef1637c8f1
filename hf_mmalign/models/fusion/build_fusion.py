"""Which class a config's `fusion` names."""

from collections.abc import Mapping

from torch import nn

from .configuration_encoders import FusionEncodersConfig
from .def_aaf import DefAafFusion
from .fusions import AutoFusion, ConcatFusion
from .gan_fusion import GanFusion


def build_fusion(config: FusionEncodersConfig, widths: Mapping[str, int]) -> nn.Module:
    """The fusion of a config, for modality vectors of these widths: a module like [`~fusions.ConcatFusion`]."""
    if config.fusion == "auto":
        return AutoFusion(widths, config.latent_size)
    if config.fusion == "gan":
        return GanFusion(widths, config.latent_size)
    if config.fusion == "def_aaf":
        return DefAafFusion(widths, config, config.num_classes)
    return ConcatFusion(widths)
