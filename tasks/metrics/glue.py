"""GLUE's metrics: accuracy, F1, Matthews, Pearson and Spearman, by scikit-learn and scipy."""

from __future__ import annotations

import warnings
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.stats import ConstantInputWarning, NearConstantInputWarning, pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


class Glue(evaluate.Metric):
    """Every usual number of one GLUE task, as fractions; config_name is the task's name.

    A correlation with constant predictions is undefined: nan for Pearson and Spearman, 0 for Matthews by convention.
    """

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Value("float32" if self.config_name == "stsb" else "int64")
        return evaluate.MetricInfo(
            description="GLUE metrics, computed locally", citation="", inputs_description="",
            features=datasets.Features({"predictions": kind, "references": kind}), format="numpy")

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, Any]:
        if self.config_name == "stsb":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConstantInputWarning)
                warnings.simplefilter("ignore", NearConstantInputWarning)
                return {"pearson": float(pearsonr(predictions, references)[0]),
                        "spearman": float(spearmanr(predictions, references)[0])}
        numbers = {"accuracy": float(accuracy_score(references, predictions))}
        if self.config_name == "cola":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "A single label", UserWarning)
                numbers["matthews_correlation"] = float(matthews_corrcoef(references, predictions))
        if self.config_name in ("mrpc", "qqp"):
            numbers["f1"] = float(f1_score(references, predictions, zero_division=0.0))
        return numbers


def score(task: str, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """All numbers of a GLUE task in points (0 to 100), the unit of Table 2."""
    metric = Glue(config_name=task, keep_in_memory=True)  # in memory: no cache file, so parallel runs cannot clash
    numbers = metric.compute(predictions=predictions, references=references)
    return {name: 100 * value for name, value in numbers.items()}
