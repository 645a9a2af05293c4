"""python -m analysis adapters PATH [PATH]: spectra, norms and effective ranks of adapter files, and how alike two are.

Files of this project, of PEFT and of the official repository (loralib) are read; no base weights are needed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import markdown, pairs, plots, similarity, spectra, subspace
from analysis.exhibit import Exhibit, Figure, Table
from analysis.write import write
from engine.contract import Refused
from lora.files import Adapter, Update, read

UNKNOWN = ("The file of {name} does not say alpha, so its ΔW is BA: norms and singular values lack the factor "
           "alpha / r (--alpha X gives it); ranks and φ do not depend on it.")


def main(words: list[str]) -> int:
    """Prints the tables, writes tables/adapters.* and figures/adapters-*.svg. Raises Refused, and SystemExit(2) on a
    request that cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m analysis adapters", description=(__doc__ or "").partition(":")[2])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="an adapter's folder or file; at most two")
    parser.add_argument("--alpha", type=float, help="alpha of files that do not say theirs (loralib's)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where tables and figures go [results]")
    asked = parser.parse_args(words)
    if len(asked.paths) > 2:
        parser.error("at most two adapters are compared")
    adapters = [read(path, asked.alpha) for path in asked.paths]
    made = exhibit(adapters)
    for paragraph in made.says:
        print(paragraph, end="\n\n")
    for table in made.tables:
        print(f"{table.title}\n", *markdown.grid([table.columns, *table.rows], table.right), "", sep="\n")
    paths = write("adapters", made, asked.results)
    print(f"written to {asked.results}: {', '.join(f'{path.parent.name}/{path.name}' for path in paths)}")
    return 0


def exhibit(adapters: Sequence[Adapter]) -> Exhibit:
    """Spectra of one or two adapters, and of two how alike their A are. Raises Refused when the two have no module in
    common, or a number is not finite."""
    for adapter in adapters:
        pairs.finite(adapter)
    names, both = _names(adapters), _compared(*adapters) if len(adapters) == 2 else []
    found = [spectra.spectra(adapter.updates) for adapter in adapters]
    tables = [spectra.table(f"Spectrum of ΔW: {name}", each) for name, each in zip(names, found, strict=True)]
    figures = [Figure("adapters-spectrum", f"The singular values of ΔW in {' and '.join(names)}, a line a layer.",
                      spectra.draw("", list(zip(names, found, strict=True))))]
    says = [f"{name}: {adapter.form}, {len(adapter.updates)} updates." for name, adapter in
            zip(names, adapters, strict=True)]
    says += [UNKNOWN.format(name=name) for name, adapter in zip(names, adapters, strict=True)
             if any(update.scale is None for update in adapter.updates)]
    says += [f"{name}: ΔW is zero in {zeros} of {len(each)} matrices (B = 0: not trained); it has no directions there."
             for name, each in zip(names, found, strict=True) if (zeros := sum(not s.S.any() for s in each))]
    rows: list[dict[str, Any]] = [{"adapter": name} | s.numbers()
                                  for name, each in zip(names, found, strict=True) for s in each]
    if both:
        tables.append(_table(names, both))
        figures.append(Figure("adapters-similarity", f"φ (Equation 4) of the first directions of A in {names[0]} and "
                              f"in {names[1]}, by layer; dotted: random subspaces.", _draw(both)))
        rows += [{"adapter": " / ".join(names)} | each for each in both]
    return Exhibit("Adapters", says, tables, figures, pd.DataFrame(rows), [])


def _names(adapters: Sequence[Adapter]) -> list[str]:
    """What to call them; two of one name are told apart by a number."""
    names = [adapter.name for adapter in adapters]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]


def _key(update: Update) -> tuple[str, str]:
    """The place in the model, without the prefix that a bare encoder lacks: from the layers' list on."""
    found = re.search(r"[^.]+\.\d+\..*", update.module)
    return found.group() if found else update.module, update.target


def _compared(one: Adapter, other: Adapter) -> list[dict[str, Any]]:
    """phi of every matrix that both adapt: (1, 1), and the first k directions of both, k the smaller rank."""
    second = {_key(update): update for update in other.updates}
    common = [(update, second[_key(update)]) for update in one.updates if _key(update) in second]
    if not common:
        raise Refused(f"{one.name} and {other.name} have no module in common: {one.updates[0].module}, … and "
                      f"{other.updates[0].module}, …\ngive two adapters of one model that share a target")
    odd = next((pair for pair in common if pair[0].A.shape[1] != pair[1].A.shape[1]), None)
    if odd is not None:
        raise Refused(f"{odd[0].module} ({odd[0].target}) has {odd[0].A.shape[1]} inputs in {one.name} and "
                      f"{odd[1].A.shape[1]} in {other.name}: not adapters of one model")
    values = subspace.stacked(lambda A, B: [subspace.phi_of(A, B)], [(first.A, last.A) for first, last in common])
    rows = []
    for (first, _), (phi,) in zip(common, values, strict=True):
        k, d = min(phi.shape), first.A.shape[1]
        rows.append({"layer": first.layer, "target": pairs.word(first), "phi_first": float(phi[0, 0]),
                     "random_first": subspace.expected_phi(1, 1, d), "k": k, "phi_k": float(phi[k - 1, k - 1]),
                     "random_k": subspace.expected_phi(k, k, d)})
    return rows


def _table(names: Sequence[str], both: Sequence[dict[str, Any]]) -> Table:
    columns = ["layer", "matrix", "φ(1, 1)", "random", "k", "φ(k, k)", "random"]
    rows = [[str(each["layer"]), each["target"], similarity.word(each["phi_first"]), f"{each['random_first']:.3f}",
             str(each["k"]), similarity.word(each["phi_k"]), f"{each['random_k']:.3f}"] for each in both]
    return Table(f"φ of A, {names[0]} and {names[1]}", columns, rows, [0, *range(2, len(columns))])


def _draw(both: Sequence[dict[str, Any]]) -> str:
    layers = sorted({each["layer"] for each in both})
    with plots.panels(1, 2, 3.2, 2.6) as (figure, (axes,)):
        for panel, which, title in zip(axes, ("first", "k"), ("first direction", "first k directions"), strict=True):
            for place, target in enumerate(dict.fromkeys(each["target"] for each in both)):
                own = [each for each in both if each["target"] == target]
                panel.plot([each["layer"] for each in own], [each[f"phi_{which}"] for each in own], label=target,
                           color=plots.COLOURS[place % 8], marker=plots.MARKERS[place % 8])
            panel.plot(layers, [max(each[f"random_{which}"] for each in both if each["layer"] == layer)
                                for layer in layers], color=plots.INK, linestyle=":", label="random")
            panel.set(title=title, xlabel="layer", ylabel="φ", ylim=(-0.02, 1.02), xticks=similarity.ticks(layers[-1]))
        axes[0].legend()
        return plots.svg(figure)
