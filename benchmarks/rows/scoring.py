"""Row (g): the five numbers of E2E for a set of texts, as `python -m tasks.score` computes them."""

from __future__ import annotations

from benchmarks.bench import Bench, Table, quartiles
from tasks.metrics import Scores, e2e
from tasks.synthetic import restaurants

LETTER, TITLE = "g", "Scoring texts"
TEXTS = 1000


def run(bench: Bench) -> list[Table]:
    """Seconds of every metric for 1,000 texts."""
    outputs, groups = _texts(20 if bench.quick else TEXTS)
    found: list[Scores] = []
    taken = bench.measure("scoring", [lambda: found.append(e2e.score(outputs, groups))], warmup=0)[0]
    scale = 1000 / len(outputs)
    steps = {name: [scores.seconds[name] for scores in found] for name in found[0].seconds}
    steps["in all"] = [each / 1000 for each in taken]
    rows = []
    for name, seconds in steps.items():
        if name not in found[0].missing:
            low, middle, high = quartiles([scale * each for each in seconds])
            rows.append({"metric": name, "s_per_1000": middle, "low": low, "high": high})
    about = [f"{len(outputs)} generated restaurants, {sum(map(len, groups)) / len(groups):.1f} references each; METEOR "
             "and the tokens of ROUGE-L and CIDEr are the official jars', a Java machine each, its start included"]
    return [Table("scoring", rows, about + [f"{name} is missing: {why}" for name, why in found[0].missing.items()])]


def _texts(count: int) -> tuple[list[str], list[list[str]]]:
    """Outputs and their references: of every restaurant one of its texts, and the others."""
    groups: dict[str, list[str]] = {}
    for row in restaurants.rows("test", 8 * count, 0):
        groups.setdefault(row["meaning_representation"], []).append(row["human_reference"])
    several = [texts for texts in groups.values() if len(texts) > 1][:count]
    return [texts[0] for texts in several], [texts[1:] for texts in several]
