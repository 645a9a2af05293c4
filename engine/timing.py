"""Times side by side: trials of several calls interleaved, so that what drifts meanwhile hits all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence


def interleaved(calls: Sequence[Callable[[], object]], warmup: int, trials: int, wait: Callable[[], object],
                clock: Callable[[], float], tick: Callable[[], object]) -> list[list[float]]:
    """Milliseconds of each call, `trials` numbers each; the `warmup` rounds before them are not counted.

    A round is one of each. It begins with another call than the one before, and every other one runs backwards: no call
    always comes first, or behind the same other. wait: returns when the device is idle; clock: seconds; tick: called
    after every call.
    """
    times: list[list[float]] = [[] for _ in calls]
    for number in range(warmup + trials):
        turn = [(number + place) % len(calls) for place in range(len(calls))]
        for which in turn if number % 2 == 0 else reversed(turn):
            wait()
            begin = clock()
            calls[which]()
            wait()
            taken = clock() - begin
            if number >= warmup:
                times[which].append(1000 * taken)
            tick()
    return times


def summary(times: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Median, mean, standard deviation and range of a call (ms), and its slow-down against base (percent): the median
    and the quartiles over the rounds, each of which compares two neighbours in time."""
    rounds = [100 * (one / other - 1) for one, other in zip(times, base, strict=True)]
    low, middle, high = statistics.quantiles(rounds, n=4, method="inclusive")
    numbers = {"median": statistics.median(times), "mean": statistics.fmean(times), "std": statistics.stdev(times),
               "min": min(times), "max": max(times), "slowdown": middle, "slowdown_low": low, "slowdown_high": high}
    return {key: round(value, 4) for key, value in numbers.items()}
