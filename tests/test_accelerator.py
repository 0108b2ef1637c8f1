"""What a GPU would refuse or wait for, found without one: on tensors that have a CUDA device and no values.

Two devices in one operation raise, and so does whatever depends on a value. A copy to the host, which would wait too, and a
tensor made on it are looked for in every operation.
"""

from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_mmalign import ot
from hf_mmalign.models.wma.alignment import WassersteinModalityAlignment
from hf_mmalign.perturbation.modalities import MissingModality, ModalityNoise, perturbed
from hf_mmalign.perturbation.modality_dropout import ModalityDropout
from tests.families import ALL, TRANSLATORS, build, each

CUDA = torch.device("cuda")


def has_fake_cuda() -> bool:
    try:
        with FakeTensorMode():
            torch.empty(2, device=CUDA).uniform_()
    except RuntimeError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    not has_fake_cuda(), reason="this PyTorch asks the driver even for tensors without values"
)
VARIANTS = [
    *((family, {}) for family in ALL),
    ("decalign", {"mixture_momentum": 0.5, "loss_reduction": "sum", "polarity_weight": 0.1, "conv_kernel_size": 3}),
    ("decalign", {"transport_epsilon_scale": "absolute", "transport_entropy": True, "latent_size": 0}),
    ("decalign", {"conv_kernel_size": 2, "conv_padding": "valid", "prototype_matching": "index"}),
    ("decalign", {"residual_dropout": 0.2, "activation_dropout": 0.2, "attention_dropout": 0.2}),
    ("bert_wma", {"wma_reference": "batch", "wma_certificate": True}),
    ("bert_wma", {"wma_solver": "ipot", "wma_beta": 0.0}),
    ("vilt_wma", {"max_image_length": 40}),
    ("vilt_wma", {"max_image_length": 7}),
]


class OneDevice(TorchDispatchMode):
    """Every result of more than one value lies on the CUDA device, but for what comes from NumPy to be sent there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.lift_fresh.default:
            return result
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dim() and tensor.device.type != "cuda":
                raise AssertionError(f"{function} gave a tensor on {tensor.device}")
        return result


def fake_values() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def accelerator(autocast: bool = False):
    """Tensors made here have no values; none but those on the CUDA device may be computed with."""
    dtype = torch.get_autocast_dtype("cuda")
    # torch.autocast itself turns off where there is no GPU.
    torch.set_autocast_enabled("cuda", autocast)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with fake_values(), OneDevice():
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", dtype)
        torch.clear_autocast_cache()


def empty_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)


def build_there(family: str, fields: dict):
    """`(model, batch, labels)` on the device."""
    _, batch, labels = build(family, **fields)
    with fake_values(), CUDA:
        model, _, _ = build(family, **fields)
        return model, each(batch, empty_like), empty_like(labels)


@pytest.fixture(autouse=True)
def _calibrated(monkeypatch):
    """As after WMA's first step: whether references are set has been read, and is remembered."""
    monkeypatch.setattr(WassersteinModalityAlignment, "needs_calibration", False)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("family", "fields"), VARIANTS, ids=str)
def test_forward_and_losses(family, fields, train, autocast):
    model, batch, labels = build_there(family, fields)
    with accelerator(autocast):
        output = model.train(train)(**batch, labels=labels, output_modality_features=True)
    assert output.logits.device.type == "cuda"
    half = autocast and family not in TRANSLATORS  # Marian adds a bias in fp32
    assert output.logits.dtype == (torch.bfloat16 if half else torch.float32)
    for loss in (output.loss, *output.losses.values()):
        assert loss.device.type == "cuda"
        assert loss.dtype == torch.float32


def hooks_of(name: str):
    some = torch.tensor([True, False, True, False])
    return [
        ModalityNoise(name, [7, 3, 0, 12]),
        ModalityNoise(name, range(4), distribution="gaussian", amplitude=0.5),
        MissingModality(name),
        MissingModality(name, some),
        MissingModality(name, some, mode="mask"),
    ]


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("family", ALL)
def test_perturbations(family, autocast):
    model, batch, labels = build_there(family, {})
    for hook in hooks_of(model.config.modalities[-1]):
        with accelerator(autocast), perturbed(model.eval(), hook):
            assert model(**batch, labels=labels).logits.device.type == "cuda"
    with accelerator(autocast), perturbed(model.train(), ModalityDropout(0.4)):
        assert model(**batch, labels=labels).loss.device.type == "cuda"


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"solver": "interior_point", "certificate": True}, {"solver": "ipot", "certificate": True},
     {"solver": "ipot", "unroll": True}],
    ids=str,
)  # fmt: skip
def test_transport(options, masks, autocast):
    with accelerator(autocast):
        x, y = torch.empty(3, 9, 8, device=CUDA, requires_grad=True), torch.empty(3, 12, 8, device=CUDA)
        a, b = (torch.empty(3, size, device=CUDA, dtype=torch.bool) if masks else None for size in (9, 12))
        result = ot.solve(ot.cosine_cost(x, y), a, b, **options)
        assert result.value.device.type == result.plan.device.type == "cuda"
        assert result.value.dtype == torch.float32


@pytest.mark.parametrize("epsilon_scale", ["mean_cost", "absolute"])
def test_multi_marginal_and_bures(epsilon_scale):
    with accelerator():
        marginals = [torch.empty(2, size, device=CUDA) for size in (3, 4, 5)]
        cost = torch.empty(2, 3, 4, 5, device=CUDA, requires_grad=True)
        result = ot.multi_marginal(cost, marginals, epsilon_scale=epsilon_scale, iterations=10)
        assert result.value.device.type == result.pairwise(0, 2).device.type == "cuda"
        means = [torch.empty(2, size, 4, device=CUDA) for size in (3, 5)]
        for shape in ((), (4,)):
            spreads = [torch.empty(*mean.shape, *shape, device=CUDA) for mean in means]
            assert ot.bures_cost(means[0], spreads[0], means[1], spreads[1]).device.type == "cuda"


def test_what_runs_on_the_host_is_found():
    """The check can fail: these solvers copy to the CPU and wait, as their documentation says."""
    with accelerator():
        cost = torch.empty(2, 30, 40, device=CUDA)
        for solver in ("hybrid", "shortlist", "exact"):
            with pytest.raises(AssertionError, match="gave a tensor on cpu"):
                ot.solve(cost, solver=solver)
