"""What a gate's weights say: of whom they can tell anything, and how often a corrupted modality's weight falls."""

import numpy as np
import pytest
from scipy import stats

from hf_mmalign.evaluation.gate import GateCurve, GateWeights, share_falling
from hf_mmalign.perturbation.corruption import Corruption

WEAK, STRONG = Corruption("audio", 3, 10.0), Corruption("audio", 3, 0.0)
CLEAN = np.array([[0.5, 0.5], [0.2, 0.8], [1.0, 0.0], [0.0, 1.0], [0.6, 0.4]])


def weights(strong, weak=CLEAN):
    # The third sample has audio alone, the fourth none: neither can shift.
    none = np.array([[1.0], [1.0], [1.0], [np.nan], [1.0]])
    return GateWeights(("audio", "text"), CLEAN, {WEAK: weak * none, STRONG: np.array(strong) * none})


def test_samples_with_nothing_to_shift_to_do_not_count():
    found = weights([[0.1, 0.9], [0.3, 0.7], [1.0, 0.0], [0.0, 1.0], [0.3, 0.7]])
    assert found.rows("audio").tolist() == [True, True, False, False, True]
    changes = found.changes(STRONG)
    assert changes.values == pytest.approx((-0.4, 0.1, -0.3))
    assert share_falling(changes) == pytest.approx(2 / 3)
    low, high = stats.t.interval(0.95, 2, loc=-0.2, scale=stats.sem([-0.4, 0.1, -0.3]))
    assert changes.interval == pytest.approx((low, high))
    assert share_falling(found.changes(WEAK)) == 0, "no change is no fall"
    assert found.means(STRONG, "audio") == pytest.approx([0.7 / 3, 2.3 / 3])
    assert found.means(None, "audio") == pytest.approx([1.3 / 3, 1.7 / 3])


def test_a_curve_over_two_runs():
    runs = [weights(np.tile([a, 1 - a], (5, 1))) for a in (0.1, 0.3)]
    curve = GateCurve.of(runs, "audio")
    assert [score.values for score in curve.falls] == [(0.0, 0.0), (1.0, pytest.approx(2 / 3))]
    assert curve.weights["text"][2].values == pytest.approx((0.9, 0.7))
    assert curve.weights["text"][2].std == pytest.approx(0.2 / 2**0.5)
    assert curve.changes[1].values == pytest.approx((0.1 - 1.3 / 3, 0.3 - 1.3 / 3))
    alone = GateWeights(("audio", "text"), np.array([[1.0, 0.0]]), {Corruption("text", "text", 1.0): np.eye(2)[:1]})
    with pytest.raises(ValueError, match="No sample has 'text' and another modality"):
        GateCurve.of([alone], "text")
