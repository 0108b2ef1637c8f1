"""POT's network simplex, dense and on a given set of arcs, and the threads to run many at once."""

import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import ot as pot
import torch
from ot.lp.emd_wrap import emd_c_sparse

# POT's simplex takes the largest cost for a bound on all, and finds problems of negative costs infeasible; hence both
# functions move the lowest cost to 0, which changes every plan's cost alike.

# The simplex needs some tens of pivots per token; this only stops one that cycles on rounding errors.
_MAX_PIVOTS = 10_000_000
_OPTIMAL = 1


class ArcSolution(NamedTuple):
    """Flows of a transport problem on given arcs, and its potentials."""

    source: np.ndarray
    target: np.ndarray
    flow: np.ndarray
    f: np.ndarray
    g: np.ndarray


def solve_dense(a: np.ndarray, b: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Optimal plan (n, m) and potentials (n,), (m,) of one problem with positive weights of equal sums, in float64."""
    lowest = cost.min()
    cost = np.ascontiguousarray(cost - lowest, dtype=np.float64)
    plan, log = pot.emd(a, b, cost, _MAX_PIVOTS, log=True, center_dual=False, check_marginals=False)
    if log["result_code"] != _OPTIMAL:
        raise RuntimeError(f"POT's network simplex failed on a problem of {a.size} x {b.size}: {log['warning']}")
    return plan, log["u"] + lowest, log["v"]


def solve_on_arcs(
    a: np.ndarray, b: np.ndarray, source: np.ndarray, target: np.ndarray, cost: np.ndarray
) -> ArcSolution | None:
    """The same with flow allowed on the given arcs only; ``None`` where the simplex finds no feasible flow on them.

    POT's public entrance takes a scipy matrix and costs 0.1 ms a call in conversions, more than a small problem's
    solution; this calls the compiled function behind it.
    """
    lowest, arcs = cost.min(), (source.view(np.uint64), target.view(np.uint64))
    source, target, flow, _, f, g, status = emd_c_sparse(a, b, *arcs, cost - lowest, _MAX_PIVOTS)
    if status != _OPTIMAL:
        return None
    return ArcSolution(source.view(np.int64), target.view(np.int64), flow, f + lowest, g)


def over_threads(function: Callable[[int], None], count: int) -> None:
    """Calls ``function(0)`` … ``function(count - 1)``, on as many threads as torch uses for its own operators.

    The simplex releases the interpreter lock. Threads live for one call (0.1 ms to start), since a pool would be dead
    in a forked data loader; and torch's own number keeps DDP processes (one thread each under torchrun) and data
    loader workers (one too) from crowding the machine.
    """
    items, lock, errors = iter(range(count)), threading.Lock(), []

    def work() -> None:
        while not errors:
            with lock:
                item = next(items, None)
            if item is None:
                return
            try:
                function(item)
            except BaseException as error:  # re-raised in the caller's thread below
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(torch.get_num_threads(), count) - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
