"""What does the gate of DEF + AAF decide? The accuracy of saved classifiers with their gate's weights and with others.

    python benchmarks/what_a_gate_decides.py RUN …

For each run, on its test split: with the gate as it is; with all weight on one modality, on each in turn; with equal
weights; and with the gate as it is, but one class embedding for every sample, the mean of all. Mean ± standard deviation
over the runs. Weights of samples without a modality go to those that they have, as the gate's do.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_mmalign.evaluation.scores import Score
from hf_mmalign.models.fusion.def_aaf import DefAafFusion
from hf_mmalign.runs.build import build_collator
from hf_mmalign.runs.evaluation import load_run


@contextmanager
def output_of(module: nn.Module, change: Callable[..., object]) -> Iterator[None]:
    """`change(inputs, output)` in the place of what a module gives."""
    hook = module.register_forward_hook(lambda _, inputs, output: change(inputs, output))
    try:
        yield
    finally:
        hook.remove()


def shared_out(wanted: Tensor, present: Tensor) -> Tensor:
    """Weights `(M,)` for samples that have the modalities `present` `(B, M)`."""
    weights = wanted * present
    weights = torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, present.float())
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)


def accuracies(folder: Path, split: str) -> dict[str, float]:
    model, processor, _, dataset = load_run(folder, {})
    fusion = next((module for module in model.modules() if isinstance(module, DefAafFusion)), None)
    if fusion is None or fusion.condition.embedding is None or fusion.joined is not None:
        raise SystemExit(f"{folder} is no classifier with a gate; train one with fusion: def_aaf.")
    model.eval()
    batches = list(DataLoader(dataset[split], batch_size=64, collate_fn=build_collator(processor, model.config)))

    @torch.no_grad()
    def accuracy() -> float:
        right = [model(**batch).logits.argmax(dim=1) == batch["labels"] for batch in batches]
        return torch.cat(right).float().mean().item()

    found, names = {"gate": accuracy()}, model.config.modalities
    weights = {f"{name} alone": row for name, row in zip(names, torch.eye(len(names)), strict=True)}
    for name, wanted in (weights | {"equal weights": torch.ones(len(names))}).items():
        with output_of(fusion.gate, lambda inputs, _, wanted=wanted: shared_out(wanted, inputs[1])):
            found[name] = accuracy()
    mean = fusion.condition.embedding.weight.mean(dim=0)
    with output_of(fusion.condition, lambda _, output: (mean.expand_as(output[0]), output[1])):
        found["mean class embedding"] = accuracy()
    return found


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of trained classifiers")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args(given)
    found = [accuracies(folder, arguments.split) for folder in arguments.runs]
    for name in found[0]:
        score = Score(tuple(one[name] for one in found))
        print(f"{name:24} {score.mean:.3f} ± {score.std:.3f}")


if __name__ == "__main__":
    main()
