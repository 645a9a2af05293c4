"""python -m analysis adapters PATH [PATH]: spectra, norms and effective ranks of adapter files, and how alike two are.

Files of this project, of PEFT and of the official repository (loralib) are read; no base weights are needed."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import markdown, matrices, plots, similarity, spectra, subspace
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
    parser.add_argument("path", type=Path, metavar="PATH", help="an adapter's folder or file")
    parser.add_argument("other", type=Path, nargs="?", metavar="PATH", help="another one, to compare it with")
    parser.add_argument("--alpha", type=float, help="alpha of files that do not say theirs (loralib's)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where tables and figures go [results]")
    asked = parser.parse_args(words)
    adapters = [read(path, asked.alpha) for path in (asked.path, asked.other) if path is not None]
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
    common, or a number or norm is not finite."""
    for adapter in adapters:
        matrices.finite(adapter)
    names, both = _names(adapters), _compared(*adapters) if len(adapters) == 2 else []
    found = [spectra.spectra(adapter.updates) for adapter in adapters]
    tables = [spectra.table(f"Spectrum of ΔW: {name}", each) for name, each in zip(names, found, strict=True)]
    figures = [Figure("adapters-spectrum", f"The singular values of ΔW in {' and '.join(names)}, a line a layer.",
                      spectra.draw("", list(zip(names, found, strict=True))))]
    says = [f"{name}: {adapter.form}, LoRA on {len(adapter.updates)} matrices." for name, adapter in
            zip(names, adapters, strict=True)]
    says += [UNKNOWN.format(name=name) for name, adapter in zip(names, adapters, strict=True)
             if any(update.scale is None for update in adapter.updates)]
    says += [f"{name}: ΔW is zero in {zeros} of {len(each)} matrices; it has no directions there."
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


def _common(one: Adapter, other: Adapter) -> list[tuple[str, Update, Update]]:
    """What to call it, and the two updates, of every place in the model that both adapt. Their modules have one name,
    or, since a bare encoder's lack a prefix, one name from the layers' list on that no other module in either has."""
    whole = {(update.module, update.target): update for update in other.updates}
    short = {_cut(update): update for update in other.updates}
    counts = [Counter(map(_cut, adapter.updates)) for adapter in (one, other)]
    out = []
    for name, update in zip(matrices.names(one.updates), one.updates, strict=True):
        match = whole.get((update.module, update.target))
        if match is None and all(count[_cut(update)] == 1 for count in counts):
            match = short[_cut(update)]
        out += [(name, update, match)] if match is not None else []
    return out


def _cut(update: Update) -> tuple[str, str]:
    """A place's name from the layers' list on."""
    found = re.search(r"[^.]+\.\d+\..*", update.module)
    return found.group() if found else update.module, update.target


def _compared(one: Adapter, other: Adapter) -> list[dict[str, Any]]:
    """phi of every matrix that both adapt: (1, 1), and the first k directions of both, k = 8 or the smaller rank."""
    common = _common(one, other)
    if not common:
        raise Refused(f"{one.name} and {other.name} have no module in common: {one.updates[0].module}, … and "
                      f"{other.updates[0].module}, …\ngive two adapters of one model that share a target")
    for _, first, last in common:
        if first.A.shape[1] != last.A.shape[1]:
            raise Refused(f"{first.module} ({first.target}) has {first.A.shape[1]} inputs in {one.name} and "
                          f"{last.A.shape[1]} in {other.name}: not adapters of one model")
    values = subspace.stacked(lambda A, B: [subspace.phi_of(A, B)], [(first.A, last.A) for _, first, last in common])
    rows = []
    for (name, first, _), (phi,) in zip(common, values, strict=True):
        k, d = min(*phi.shape, similarity.NEAR), first.A.shape[1]
        rows.append({"layer": first.layer, "target": name, "phi_first": float(phi[0, 0]),
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
        titles = "first direction", f"first {both[0]['k']} directions"
        for panel, which, title in zip(axes, ("first", "k"), titles, strict=True):
            for place, target in enumerate(dict.fromkeys(each["target"] for each in both)):
                own = [each for each in both if each["target"] == target]
                panel.plot([each["layer"] for each in own], [each[f"phi_{which}"] for each in own], label=target,
                           color=plots.COLOURS[place % 8], marker=plots.MARKERS[place % 8])
            panel.plot(layers, [max(each[f"random_{which}"] for each in both if each["layer"] == layer)
                                for layer in layers], color=plots.INK, linestyle=":", label="random")
            panel.set(title=title, xlabel="layer", ylabel="φ", ylim=(-0.02, 1.02), xticks=similarity.ticks(layers[-1]))
        axes[0].legend()
        return plots.svg(figure)
