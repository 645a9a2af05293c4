"""The scores of all nine tasks: scikit-learn's and scipy's own, in points, without a network."""

import socket
import subprocess
import sys
import warnings

import numpy as np
import pytest
from conftest import ROOT
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tasks.metrics.glue import Glue, score

TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", call)
    monkeypatch.setattr(socket, "getaddrinfo", call)


def random(task: str, seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and references of a task's kind."""
    drawn = np.random.default_rng(seed)
    if task == "stsb":
        references = drawn.uniform(0, 5, count).astype(np.float32)
        return (references + drawn.normal(0, 2, count)).astype(np.float32), references
    classes = 3 if task == "mnli" else 2
    return drawn.integers(0, classes, count), drawn.integers(0, classes, count)


def expected(task: str, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    if task == "stsb":
        return {"pearson": 100 * pearsonr(references, predictions).statistic,
                "spearman": 100 * spearmanr(references, predictions).statistic}
    numbers = {"accuracy": 100 * accuracy_score(references, predictions)}
    if task == "cola":
        numbers["matthews_correlation"] = 100 * matthews_corrcoef(references, predictions)
    if task in ("mrpc", "qqp"):
        numbers["f1"] = 100 * f1_score(references, predictions, pos_label=1)
    return numbers


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_those_of_scikit_learn_and_scipy_in_points(task: str, seed: int) -> None:
    predictions, references = random(task, seed)
    got = score(task, predictions, references)
    assert got == pytest.approx(expected(task, predictions, references), rel=1e-6, abs=1e-6)
    assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_prediction_has_a_hundred_points(task: str) -> None:
    references = random(task, 0)[1]
    assert score(task, references, references) == pytest.approx(dict.fromkeys(score(task, references, references), 100))


def test_constant_predictions_have_no_correlation_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cola = score("cola", np.zeros(50, int), random("cola", 0, 50)[1])
        stsb = score("stsb", np.full(50, 2.5, np.float32), random("stsb", 0, 50)[1])
        score("mrpc", np.zeros(50, int), random("mrpc", 0, 50)[1])
    assert cola["matthews_correlation"] == 0
    assert np.isnan(stsb["pearson"]) and np.isnan(stsb["spearman"])


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_nearly_constant_predictions_give_no_warning(task: str) -> None:
    """A collapsing regression predicts 2.5 and a few units of the last place: nearly constant for scipy."""
    predictions, references = random(task, 0, 50)
    if task == "stsb":
        predictions = np.full(50, 2.5, np.float32)
        predictions[0] = np.nextafter(np.float32(2.5), np.float32(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(task, predictions, references)


def test_two_metrics_at_once_do_not_meet() -> None:
    first, second = (Glue(config_name="rte", keep_in_memory=True) for _ in range(2))
    first.add_batch(predictions=[0, 1], references=[0, 1])
    second.add_batch(predictions=[0, 1], references=[1, 0])
    assert first.compute() == {"accuracy": 1.0} and second.compute() == {"accuracy": 0.0}


@pytest.mark.slow
def test_two_processes_at_once_do_not_meet() -> None:
    code = ("import numpy as np; from tasks.metrics.glue import score\n"
            "print({score('rte', np.arange(9) % 2, np.zeros(9, int))['accuracy'] for _ in range(20)} == {100 * 5 / 9})")
    call = [sys.executable, "-c", code]
    both = [subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["True", "True"]
