"""Models under torch.compile and torch.export. The backends trace all that Inductor sees, and need no compiler."""

from copy import deepcopy

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.families import ALL, FAMILIES, build, each
from tests.tiny import rows_of


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("family", "fields", "backend"),
    [
        ("decalign with a text encoder", {"mixture_iterations": 1, "transport_entropy": True}, "eager"),
        ("fusion", {}, "aot_eager"),
        ("bert_wma", {"wma_certificate": True, "wma_solver": "shortlist"}, "eager"),
        ("vilt_wma", {"wma_reference": "batch", "max_image_length": 40}, "eager"),
    ],
    ids=str,
)
def test_a_compiled_training_step_is_the_eager_one(family, fields, backend):
    """Also before WMA's references are calibrated, which the step then does itself."""
    model, batch, labels = build(family, **fields)
    twin = deepcopy(model)
    compiled = torch.compile(twin.train(), backend=backend)
    expected, output = model.train()(**batch, labels=labels), compiled(**batch, labels=labels)
    torch.testing.assert_close(dict(output.losses), dict(expected.losses), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.loss, expected.loss, atol=1e-5, rtol=1e-4)
    expected.loss.backward()
    output.loss.backward()
    torch.testing.assert_close(gradients(twin), gradients(model), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", [family for family in ALL if family != "decalign with a text encoder"])
def test_later_steps_are_one_graph_and_none_is_compiled_twice(family):
    """Whole, with solvers as operators of it, and not compiled anew because a config has changed."""
    model, batch, labels = build(family, **{"mixture_iterations": 1} if family == "decalign" else {})
    model.train()
    if model.needs_calibration:
        model.calibrate([batch])
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for _ in range(3):
        compiled(**batch, labels=labels).loss.backward()
    assert counter.frame_count == 1


def test_hooks_that_come_and_go_compile_nothing_anew():
    """As modality dropout's do, one a step."""
    model, batch, labels = build("fusion")
    counter, calls = CompileCounter(), []
    compiled = torch.compile(model, backend=counter)

    def step() -> None:
        def hook(embeddings):
            calls.append(len(embeddings))
            return embeddings

        with model.register_modality_hook(hook):
            compiled(**batch, labels=labels).loss.backward()

    step()
    first = counter.frame_count
    for _ in range(3):
        step()
    assert counter.frame_count == first
    assert calls == [2] * 4
    compiled(**batch, labels=labels)
    assert len(calls) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_with_a_dynamic_batch(family):
    model, batch, _ = build(family)
    model.eval()
    dynamic = each(batch, lambda tensor: {0: torch.export.Dim("batch")})
    program = torch.export.export(model, (), batch, dynamic_shapes=dynamic).module()
    for rows in ([0, 1, 2, 3], [1], [3, 0, 2, 1, 1, 2, 0]):
        part = rows_of(batch, rows)
        torch.testing.assert_close(program(**part).logits, model(**part).logits, atol=1e-6, rtol=1e-5)


def test_exported_without_masks_and_without_a_modality():
    model, batch, _ = build("vilt_wma", max_image_length=8)
    batch = {name: batch[name] for name in ("input_ids", "pixel_values")}
    dynamic = each(batch, lambda tensor: {0: torch.export.Dim("batch")})
    program = torch.export.export(model.eval(), (), batch, dynamic_shapes=dynamic).module()
    torch.testing.assert_close(program(**batch).logits, model(**batch).logits, atol=1e-6, rtol=1e-5)
    part = rows_of(batch, [2])
    torch.testing.assert_close(program(**part).logits, model(**part).logits, atol=1e-6, rtol=1e-5)
