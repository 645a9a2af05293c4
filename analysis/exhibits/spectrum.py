"""The singular values of ΔW by layer and matrix: how many of the r directions training uses."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pandas as pd

from analysis import pairs, similarity, spectra
from analysis.exhibit import Exhibit, Figure, Inputs, Table

NEEDS = ("weights of LoRA runs; "
         "python run.py -m task=cola method=lora model=minilm r=4,64 data_root=DIR makes them")


def make(inputs: Inputs) -> Exhibit:
    """Tables and a figure for every group of runs: a run of each rank."""
    found, missing = pairs.each(inputs, pairs.every_rank, pairs.ONE_RANK, lambda _, updates: updates)
    says = ["σ_k are the singular values of ΔW with the scale alpha / r. The effective rank is exp of the entropy of "
            "σ_k / Σσ (Roy and Vetterli 2007), r for equal σ_k; the stable rank is ‖ΔW‖_F² / σ_1². The paper argues "
            "for a low intrinsic rank from scores and shared directions; it shows no spectrum."]
    tables: list[Table] = []
    figures: list[Figure] = []
    data: list[dict[str, Any]] = []
    for name, records, updates in found:
        rows = [(f"r = {record.settings['r']}", spectra.spectra(list(each.values())))
                for record, each in zip(records, updates, strict=True)]
        tables += [spectra.table(f"Spectrum of ΔW: {name}, {rank}", each) for rank, each in rows]
        figures.append(Figure(f"spectrum-{name}", "The singular values of ΔW, a line for each layer. "
                              + pairs.told(records), spectra.draw(f"{records[0].task}, {records[0].model}", rows)))
        says.append(f"**{name}.** " + " ".join(f"{rank}: {_read(each)}." for rank, each in rows))
        data += [{"group": name, "task": record.task, "model": record.model, "seed": record.seed,
                  "digest": record.digest} | each.numbers()
                 for record, (_, row) in zip(records, rows, strict=True) for each in row]
    return Exhibit("Spectra of the updates", says, tables, figures, pd.DataFrame(data) if data else None, missing)


def _read(found: list[spectra.Spectrum]) -> str:
    """The mean effective rank of every matrix over the layers."""
    said = []
    for target in dict.fromkeys(each.target for each in found):
        ranks = [each.numbers()["effective_rank"] for each in found if each.target == target and each.S[0] > 0]
        said.append(f"{similarity.delta(target)} uses an effective rank of {similarity.word(fmean(ranks))} on average"
                    if ranks else f"{similarity.delta(target)} is zero")
    return ", ".join(said)
