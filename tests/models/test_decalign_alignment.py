from dataclasses import replace

import pytest
import torch

from hf_mmalign import DecAlignConfig
from hf_mmalign.losses.gaussian_mixture import GaussianMixture, em_step, initial_mixture
from hf_mmalign.losses.prototype_transport import joint_cost, transport_loss
from hf_mmalign.models.decalign import alignment
from hf_mmalign.models.decalign.alignment import DecoupledModalities, HierarchicalAlignment

NAMES = ["text", "vision", "audio", "motion"]
WIDTH, BATCH = 64, 32


def build(modalities: int, **fields) -> HierarchicalAlignment:
    torch.manual_seed(0)
    sizes = dict.fromkeys(NAMES[:modalities], 8)
    return HierarchicalAlignment(DecAlignConfig(feature_sizes=sizes, **{"hidden_size": WIDTH} | fields))


def decoupled(modalities: int, scale: float = 1.0, batch: int = BATCH, seed: int = 0, dtype=torch.float32):
    """Features of three time steps that pool to unit spread around a centre per modality, all times `scale`."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(2, modalities, 1, 1, WIDTH, generator=generator, dtype=dtype) / 3**0.5
    noise = torch.randn(2, modalities, batch, 3, WIDTH, generator=generator, dtype=dtype)
    unique, common = scale * (centres + noise)
    return gathered(unique.requires_grad_(), common.requires_grad_(), torch.ones(modalities, batch, dtype=torch.bool))


def gathered(unique, common, present) -> DecoupledModalities:
    """From `(M, B, T, d)` features. Pooled as a sum over √T, which keeps the spread of independent steps."""
    mask = present[..., None, None].to(unique.dtype)
    unique, common = unique * mask, common * mask
    by_name = [dict(zip(NAMES, features, strict=False)) for features in (unique, common)]
    pooled = [features.sum(dim=2) / unique.shape[2] ** 0.5 for features in (unique, common)]
    return DecoupledModalities(*by_name, present, *pooled)


def kernel_domain_plan(cost, marginals, epsilon=0.1, iterations=50):
    """Multi-marginal Sinkhorn on exp(−C / ε) with 1e-8 in the denominators, as DecAlign's public code solves it."""
    axes = range(cost.dim())
    kernel, scalings = (-cost / epsilon).exp(), [torch.ones_like(marginal) for marginal in marginals]
    along = [[-1 if other == axis else 1 for other in axes] for axis in axes]

    def scaled(skip=None):
        plan = kernel
        for axis in axes:
            plan = plan if axis == skip else plan * scalings[axis].reshape(along[axis])
        return plan

    for _ in range(iterations):
        for axis in axes:
            held = scaled(skip=axis).sum([other for other in axes if other != axis])
            scalings[axis] = marginals[axis] / (held + 1e-8)
    return scaled()


@pytest.mark.parametrize("modalities", [2, 3, 4])
@pytest.mark.parametrize("scale", [1e-3, 1e-1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("epsilon_scale", ["mean_cost", "absolute"])
def test_the_plan_keeps_its_mass_at_any_scale(monkeypatch, modalities, scale, epsilon_scale):
    """Inside the model's own loss; the kernel-domain solver collapses on the very same problems from unit scale on."""
    solved = []

    def recording(costs, marginals, *rest):
        value, plan = transport_loss(costs, marginals, *rest)
        solved.append((costs.detach(), marginals.detach(), plan))
        return value, plan

    monkeypatch.setattr(alignment, "transport_loss", recording)
    batch = decoupled(modalities, scale)
    losses = build(modalities, transport_epsilon_scale=epsilon_scale)(batch)
    ((costs, marginals, plan),) = solved
    assert plan.dtype == torch.float32
    assert plan.sum().item() == pytest.approx(1, abs=1e-4)
    for axis, marginal in enumerate(marginals):
        held = plan.sum([other for other in range(modalities) if other != axis])
        assert (held - marginal).abs().sum() < 1e-4
    assert losses["hete_transport"] > 0
    gradient = torch.autograd.grad(losses["hete"], batch.pooled_unique)[0]
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0

    if scale >= 1:
        assert kernel_domain_plan(joint_cost(costs), list(marginals)).sum() < 1e-3


FINITE = [
    {},
    {"mixture_gradient": "all_steps"},
    {"mixture_momentum": 0.9},
    {"transport_entropy": True, "transport_epsilon_scale": "absolute", "loss_reduction": "sum"},
    {"prototype_matching": "index", "decoupling": "cosine", "latent_size": 0},
]


@pytest.mark.parametrize("fields", FINITE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["whole", "one sample", "few samples", "all equal", "no pair", "nobody"])
def test_losses_and_gradients_are_finite(fields, dtype, case):
    module = build(3, **fields)
    size = {"one sample": 1, "few samples": 3}.get(case, 12)
    generator = torch.Generator().manual_seed(1)
    unique, common = torch.randn(2, 3, size, 3, WIDTH, generator=generator).to(dtype)
    if case == "all equal":
        unique, common = torch.ones_like(unique), torch.ones_like(common)
    present = torch.ones(3, size, dtype=torch.bool)
    if case in ("no pair", "nobody"):
        present[1:] = False
        present[0] = case == "no pair"
    unique.requires_grad_()
    common.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        losses = module(gathered(unique, common, present))
    for name, value in losses.items():
        assert value.dtype == torch.float32, name
        assert torch.isfinite(value), name
    if case in ("no pair", "nobody"):
        assert losses["hete"] == losses["homo"] == 0
    total = sum(value for name, value in losses.items() if name in ("decouple", "hete", "homo"))
    for gradient in torch.autograd.grad(total, (unique, common), allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize("fields", [*FINITE, {"loss_reduction": "sum"}])
def test_a_modality_that_nobody_has_leaves_every_term(fields):
    fields = fields | {"latent_size": 0}
    three, two = build(3, **fields), build(2, **fields)
    generator = torch.Generator().manual_seed(2)
    unique, common = torch.randn(2, 3, BATCH, 3, WIDTH, generator=generator)
    present = torch.rand(3, BATCH, generator=generator) < 0.8
    present[2] = False
    losses = three(gathered(unique, common, present))
    expected = two(gathered(unique[:2], common[:2], present[:2]))
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=lambda text, name=name: f"{name}: {text}")


def running(module) -> GaussianMixture:
    return GaussianMixture(*(part.clone() for part in module._running))


def test_running_mixtures_follow_the_batches():
    module = build(2, mixture_momentum=0.75, num_prototypes=2).train()
    assert all(part.isnan().all() for part in running(module))
    module(decoupled(2, seed=1))
    first = running(module)
    without_memory = build(2, num_prototypes=2)._prototypes(
        decoupled(2, seed=1).pooled_unique, torch.ones(2, BATCH).bool()
    )
    torch.testing.assert_close(first, GaussianMixture(*(part.detach() for part in without_memory)))
    module(decoupled(2, seed=2))
    second = running(module)
    points = decoupled(2, seed=2).pooled_unique.detach()
    batch = first
    for _ in range(module.config.mixture_iterations):
        batch = em_step(points, torch.ones(2, BATCH, dtype=torch.bool), batch, 1e-4)
    torch.testing.assert_close(second.weights, 0.75 * first.weights + 0.25 * batch.weights)
    module.eval()(decoupled(2, seed=3))
    assert all(map(torch.equal, running(module), second))
    module.train()
    absent = decoupled(2, seed=4)
    absent.present[1] = False
    module(absent)
    for part, before in zip(running(module), second, strict=True):
        assert torch.equal(part[1], before[1])
        assert not torch.equal(part[0], before[0])


def test_processes_merge_to_the_mixture_of_all_their_samples(monkeypatch):
    x = torch.randn(2, 20, 4)
    present = torch.rand(2, 20) < 0.8
    start = initial_mixture(x, present, 3, 1e-4)
    parts = [(em_step(x[:, rows], present[:, rows], start, 1e-4), present[:, rows].sum(1, keepdim=True).float())
             for rows in (slice(0, 8), slice(8, 20))]  # fmt: skip
    payloads = []
    monkeypatch.setattr(alignment.dist, "all_reduce", lambda sums: payloads.append(sums.clone()))
    alignment._merge_processes(*parts[1])
    monkeypatch.setattr(alignment.dist, "all_reduce", lambda sums: sums.add_(payloads[0]))
    merged, counts = alignment._merge_processes(*parts[0])
    expected = em_step(x, present, start, 1e-4)
    torch.testing.assert_close(counts, present.sum(1, keepdim=True).float())
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-4)


def test_running_mixtures_under_compile():
    """A step reads and changes them, and a compiled backward must not read what the step has made of them."""
    fields = {
        "mixture_momentum": 0.5,
        "mixture_iterations": 1,
        "num_prototypes": 2,
        "disabled_losses": ["homo", "decouple"],
    }
    torch._dynamo.reset()
    results = []
    for wrap in (lambda module: module, lambda module: torch.compile(module, backend="aot_eager")):
        module, batch = build(2, **fields).train(), decoupled(2, batch=8)
        wrapped = wrap(module)
        for _ in range(2):
            x = batch.pooled_unique.detach().requires_grad_()
            losses = wrapped(replace(batch, pooled_unique=x))
            (gradient,) = torch.autograd.grad(losses["hete"], x)
            results.append((gradient, *(buffer.clone() for buffer in module.buffers())))
    for step in (0, 1):
        for mine, expected in zip(results[2 + step], results[step], strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)
