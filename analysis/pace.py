"""How long a training step takes: by the rule of conf/table/README.md, or from what `python -m benchmarks` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Protocol

from analysis.declared import declared

SHARE, PEAK, SHORT_PEAK = 0.3, 67e12, 989e12  # of an H100: fp32 and 16 bits, FLOP/s
LAUNCH = 1e-3  # seconds a layer: its kernels, forward and backward


@dataclass(frozen=True)
class Step:
    """What a training step works on."""

    model: str  # a file of conf/model
    layers: int
    tokens: float  # of all inputs of a batch, padding included
    full: bool  # whether every weight trains (FT)
    short: bool  # 16 bits
    vocabulary: int | None = None  # of a cut model; None: the whole one's

    @property
    def each(self) -> int:
        """Floating-point operations a weight and token: forward, backward, and of FT the weights' gradients."""
        return 6 if self.full else 4

    @property
    def operations(self) -> float:
        """Of the matrices that multiply, without attention's products."""
        return self.each * self.tokens * self.weights

    @property
    def weights(self) -> int:
        """Of the matrices that multiply: embeddings that are only looked up do no work, and are left out."""
        said = _config(self.model)
        d = said.get("hidden_size", said.get("n_embd"))
        inner = said.get("intermediate_size", said.get("n_inner") or 4 * d)
        vocabulary = self.vocabulary or said["vocab_size"]
        words = d * vocabulary if "n_embd" in said else 0  # a decoder predicts one of them at each place
        return int(self.layers * (4 * d * d + 2 * d * inner) + words)


def layers(model: str) -> int:
    """Of a whole model of conf/model."""
    said = _config(model)
    return int(said.get("num_hidden_layers", said.get("n_layer")))


def _config(model: str) -> Mapping[str, Any]:
    """Raises KeyError where conf/ does not have the model's shape."""
    found: Mapping[str, Any] | None = (declared("model", model) or {}).get("config")
    if not found:
        raise KeyError(model)
    return found


class Pace(Protocol):
    """What says how long a step takes."""

    @property
    def device(self) -> str:
        """Whose step."""

    def seconds(self, step: Step) -> float:
        """Of one run's step."""

    def together(self, step: Step, wide: Step, runs: int) -> float | None:
        """Of a step that so many runs take at once, each with a batch as wide as `wide`; None: nothing tells."""

    def source(self, step: Step) -> int | None:
        """Which of its measurements the time is from, counted from 1; None: none."""


class Rule:
    """An H100 as conf/table/README.md has it, not measured."""

    device = "one H100, by the rule"

    def seconds(self, step: Step) -> float:
        """The larger of work and launches."""
        return max(self._work(step), LAUNCH * step.layers)

    def together(self, step: Step, wide: Step, runs: int) -> float:
        """The work of all, launched once."""
        return max(runs * self._work(wide), LAUNCH * step.layers)

    def source(self, step: Step) -> None:
        """Nothing was measured."""
        return None

    def _work(self, step: Step) -> float:
        return step.operations / (SHARE * (SHORT_PEAK if step.short else PEAK))


@dataclass(frozen=True)
class Timed:
    """A step that was timed."""

    step: Step
    words: tuple[str, ...]  # model, layers, method, batch x length, precision
    seconds: float


@dataclass(frozen=True)
class Joint:
    """Steps of several runs, taken at once and in turn."""

    step: Step  # one run's
    runs: int
    share: float  # the time at once over the time in turn


@dataclass(frozen=True)
class Measured:
    """A device of results/benchmarks. Times are carried over from the nearest step that was timed, by operations."""

    device: str
    kind: str  # cuda · cpu
    steps: Sequence[Timed]  # not empty
    joint: Sequence[Joint]

    def seconds(self, step: Step) -> float:
        """No step is taken to be faster a layer than the fastest that was timed."""
        timed = self._nearest(step)
        least = min(each.seconds / each.step.layers for each in self.steps)
        return max(timed.seconds * step.operations / timed.step.operations, step.layers * least)

    def together(self, step: Step, wide: Step, runs: int) -> float | None:
        """As long as in turn (with wider batches), times what was saved in the nearest of the joint steps."""
        if not self.joint:
            return None
        nearest = min(self.joint, key=lambda joint: (joint.step.short != step.short, abs(
            log(joint.step.operations / step.operations)) + abs(log(joint.runs / runs))))
        return runs * self.seconds(wide) * nearest.share

    def source(self, step: Step) -> int:
        """Its place among the steps."""
        return self.steps.index(self._nearest(step)) + 1

    def _nearest(self, step: Step) -> Timed:
        return min(self.steps, key=lambda timed: (timed.step.full != step.full, timed.step.short != step.short,
                                                  abs(log(timed.step.operations / step.operations))))
