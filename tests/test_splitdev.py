"""Halves of the validation set: what GLUE tasks record at every epoch, and what the split-dev exhibit makes of it."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy.stats import pearsonr
from test_tables import glue, make

from analysis.exhibits import splitdev
from engine import train
from tasks.glue import _halves


class Scored(tiny.Rows):
    """Random rows with labels that are told."""

    def __init__(self, labels: Any) -> None:
        super().__init__(len(labels))
        self.labels = torch.as_tensor(labels)


def judged(name: str, labels: Any, outputs: Any, **more: Any) -> dict[str, float]:
    """Glue.evaluate of outputs that are told, for one validation set or two."""
    sets = {"validation": (labels, outputs)} | more
    splits = {key: Scored(known) for key, (known, _) in sets.items()}
    told = {id(splits[key]): torch.as_tensor(made, dtype=torch.float32) for key, (_, made) in sets.items()}
    classes = None if name == "stsb" else ["no", "yes"]
    metric = {"stsb": "pearson", "cola": "matthews_correlation"}.get(name, "accuracy")
    task = replace(tiny.task(), name=name, labels=classes, metric=metric)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return task.evaluate(lambda split, step, size=0: told[id(split)], splits)


def one_hot(labels: Any) -> np.ndarray:
    return np.eye(2)[np.asarray(labels)]


def test_halves_are_the_same_for_all_and_share_nothing() -> None:
    first, second = _halves(277)
    assert sorted([*first, *second]) == list(range(277)) and (len(first), len(second)) == (138, 139)
    assert (_halves(277)[0] == first).all() and not (first == np.arange(138)).all()
    one, two = _halves(10)  # of every record so far: with others, old and new could not be compared
    assert (one.tolist(), two.tolist()) == ([3, 4, 7, 8, 9], [0, 1, 2, 5, 6])


def test_each_half_has_the_tasks_own_metric() -> None:
    generator = np.random.default_rng(3)
    labels, guesses = generator.integers(0, 2, 40), generator.integers(0, 2, 40)
    numbers, halves = judged("rte", labels, one_hot(guesses)), _halves(40)
    for place, half in enumerate(halves, 1):
        assert numbers[f"accuracy_half{place}"] == pytest.approx(100 * (labels[half] == guesses[half]).mean())
    scores, outputs = generator.random(40).astype(np.float32), generator.random((40, 1)).astype(np.float32)
    numbers = judged("stsb", scores, outputs)
    assert numbers["pearson_half2"] == pytest.approx(100 * pearsonr(outputs[halves[1], 0], scores[halves[1]])[0])
    assert "spearman_half1" not in numbers


def test_two_validation_sets_are_halved_together() -> None:
    numbers = judged("rte", [0] * 6, one_hot([0] * 6), other=([1] * 4, one_hot([0] * 4)))
    halves = _halves(10)
    assert numbers["accuracy_half1"] == pytest.approx(100 * (halves[0] < 6).mean())
    assert numbers["accuracy"] == pytest.approx(60) and numbers["accuracy_other"] == 0


@pytest.mark.parametrize("name", ["cola", "mrpc", "rte"])
def test_one_class_or_one_prediction_breaks_nothing(name: str) -> None:
    """Neither a crash nor a warning at every epoch."""
    numbers = judged(name, [0] * 8, one_hot([0] * 8))
    assert np.isfinite([value for key, value in numbers.items() if "half" in key]).all()


@pytest.mark.parametrize("labels", [[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0], [3.0] * 6])
def test_an_undefined_correlation_is_nan(labels: list[float]) -> None:
    numbers = judged("stsb", labels, np.ones((len(labels), 1)))
    assert np.isnan(numbers["pearson_half1"]) and np.isnan(numbers["pearson_half2"])


def test_halves_are_in_the_curve_and_in_no_number() -> None:
    """They choose no epoch, and records and screens are as they were."""
    class Halved(tiny.Scripted):
        def evaluate(self, predict: Any, validation: Any) -> dict[str, float]:
            return super().evaluate(predict, validation) | {"score_half1": 1.0, "score_half2": float("nan")}

    fitted = tiny.train(tiny.adapted(tiny.lora()), Halved([1.0, 2.0]))
    assert [entry["score_half1"] for entry in fitted.outcome.curve] == [1.0, 1.0]
    assert fitted.outcome.best == fitted.outcome.last == {"score": 2.0}
    assert all(f"score{ending}" in fitted.outcome.curve[0] for ending in train.HALVES)


def with_curve(*epochs: tuple[float | None, float | None, float], seed: int = 0) -> Any:
    """A run with (half 1, half 2, whole) at every epoch."""
    made = glue("sst2", max(whole for *_, whole in epochs), seed)
    curve = [{"epoch": i, "accuracy": whole, "accuracy_half1": one, "accuracy_half2": two}
             for i, (one, two, whole) in enumerate(epochs, 1)]
    return replace(made, outcome={**made.outcome, "curve": curve, "last": {"accuracy": epochs[-1][2]}})


def test_an_epoch_chosen_on_one_half_is_reported_on_the_other() -> None:
    """Half 1 is best at epoch 2, where half 2 has 80; half 2 at epoch 3, where half 1 has 84; the first of equals."""
    run = with_curve((70, 70, 70), (90, 80, 85), (84, 88, 86), (90, 60, 75))
    assert splitdev.honest(run) == 82.0
    made = make("splitdev", run, with_curve((70, 70, 70), seed=1))
    assert made.tables[0].rows[0][5:] == ["2", "78.00", "76.00", "2.00", "72.50"] and made.missing == []
    assert made.data is not None and made.data.flattered.tolist() == [4.0, 0.0]


def test_one_epoch_is_no_choice_and_not_in_the_average() -> None:
    """4 points where there are four epochs, 6 where there are two; with the run of one epoch it would be 3.33."""
    four, two = with_curve((70, 70, 70), (90, 80, 85), (84, 88, 86), (90, 60, 75)), with_curve(
        (80, 70, 75), (70, 82, 76), seed=2)
    assert splitdev.honest(two) == 70.0
    said = make("splitdev", four, with_curve((70, 70, 70), seed=1), two).says[-1]
    assert said == ("2 of 3 runs had more than one epoch to choose from. In these the best epoch is 5.00 points above "
                    "the split on average, 4.00 to 6.00 in single runs.")
    assert len(make("splitdev", with_curve((70, 70, 70))).says) == 1


def test_older_and_undefined_runs_are_said() -> None:
    made = make("splitdev", glue("sst2", 90.0), with_curve((None, 80, 80), seed=1))
    assert made.tables == [] and "1 older record" in made.missing[0] and "1 run" in made.missing[1]
    assert splitdev.honest(with_curve((None, 60, 60), (60, 70, 65))) == 65.0
    assert splitdev.HALVES == train.HALVES
