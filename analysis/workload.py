"""The trainings of a table of conf/ and what each works through: steps, tokens, padding, the official length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from analysis import composed
from analysis.composed import Settings, Words
from analysis.declared import CONF
from analysis.pace import Step, layers
from analysis.padding import Texts, texts

SAME = ("model.name", "method.name", "task.name", "task.limit", "scale.name", "init_from", "r", "alpha", "targets",
        "l_p", "l_i", "drop", "top", "epochs", "batch", "length", "precision")  # with the recipe: what tells runs apart


@dataclass(frozen=True)
class Training:
    """Runs that differ in their seeds alone."""

    key: tuple[str, ...]  # of the runs, without their seeds
    seeds: frozenset[str]
    task: str
    model: str
    method: str
    epochs: int
    batch: int
    length: int
    official: int  # tokens to which the official scripts pad every example
    examples: int
    special: int  # tokens that a method adds to each
    batching: str
    short: bool  # 16 bits

    @property
    def runs(self) -> int:
        """How many."""
        return len(self.seeds)

    @property
    def steps(self) -> int:
        """Of the optimiser, in each run."""
        return self.epochs * -(-self.examples // self.batch)

    @property
    def real(self) -> float:
        """Tokens of an example, mean, the method's own among them."""
        return self._texts.kept(self.length) + self.special

    def padded(self, together: int = 1) -> float:
        """The same as the batch holds it, with so many batches beside each other."""
        return self._texts.padded(self.length, self.batch, self.batching, self.examples, together) + self.special

    @property
    def fixed(self) -> int:
        """The same as the official recipe holds it."""
        return self.official + self.special

    @property
    def seen(self) -> int:
        """Examples that each run sees, all epochs."""
        return self.epochs * self.examples

    @property
    def joins(self) -> bool:
        """Whether they can train on one base: FT has none that is frozen, DeBERTa's positions are one run's."""
        return self.method != "ft" and not self.model.startswith("deberta") and self.runs > 1

    def step(self, tokens: float) -> Step:
        """Its step with that many tokens an example."""
        return Step(self.model, layers(self.model), self.batch * tokens, self.method == "ft", self.short)

    @property
    def _texts(self) -> Texts:
        return texts()[self.task]


def paper_tables() -> list[str]:
    """All but the demonstration, which is no table of the paper."""
    return [name for name in composed.names() if name != "demo"]


@cache
def trainings(table: str) -> Sequence[Training]:
    """All of a table: cells that only decode otherwise share one, and the MNLI runs that cells start from come first
    where the table has them not."""
    cells = composed.cells(table)
    return joined([_training(words.get("seed", "0"), _settings(table, composed.keyed(words, ("seed",))))
                   for words in [*_parents(table, cells), *cells]])


def joined(several: Sequence[Training]) -> list[Training]:
    """Every run once, in the order in which they first come."""
    made: dict[tuple[str, ...], Training] = {}
    for one in several:
        there = made.get(one.key, one)
        made[one.key] = replace(there, seeds=there.seeds | one.seeds)
    return list(made.values())


def _parents(table: str, cells: Sequence[Words]) -> list[Words]:
    found = [{**words, "task": "mnli", "init_from": "none"} for words in cells
             if _settings(table, composed.keyed(words, ("seed",)))["init_from"] == "mnli"]
    return list({composed.keyed(words): words for words in found}.values())


@cache
def _settings(table: str, words: tuple[tuple[str, str], ...]) -> Settings:
    return composed.settings(dict(words), table)


def _training(seed: str, said: Settings) -> Training:
    task, model, method = (str(said[f"{group}.name"]) for group in ("task", "model", "method"))
    length = int(said["length"])
    return Training(
        (said["recipe.name"], *(str(said.get(name)) for name in SAME)), frozenset([seed]), task, model, method,
        int(said["epochs"]), int(said["batch"]), length, _official(said, model, method, task) or length,
        int(said["task.limit"] or texts()[task].examples), int(said.get("l_p", 0)) + int(said.get("l_i", 0)),
        said["batching"], said["precision"] != "fp32")


def _official(said: Settings, model: str, method: str, task: str) -> int | None:
    """The length of the official script for a LoRA cell of the standard setup, where there is one."""
    name = f"{model}/lora-official"
    ours = method == "lora" and said.recipe.startswith(f"{model}/") and said["recipe.setup"] == "standard"
    if not ours or not (CONF / "recipe" / f"{name}.yaml").is_file():
        return None
    words = {"model": model, "method": method, "task": task, "recipe": name}
    return int(composed.settings(words)["length"])
