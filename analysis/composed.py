"""The tables of conf/ as their cells, and what a cell's settings come to: conf/ read as YAML, without Hydra.

It knows what these files use of Hydra's language and no more: lists of defaults, ${…} and oc.select. The tests compare
it with Hydra, cell by cell."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import yaml

from analysis.declared import CONF

Words = dict[str, str]  # setting -> value, as typed
Tree = dict[str, Any]
GROUPS = ("task", "model", "method", "recipe", "scale")
INNERMOST = re.compile(r"\$\{([^{}$]*)\}")


def names() -> list[str]:
    """Every table."""
    return sorted(path.stem for path in (CONF / "table").glob("*.yaml"))


def cells(table: str) -> list[Words]:
    """The words of every cell: each of the table's sets with each combination of its params."""
    sweeper = _read(f"table/{table}")["hydra"]["sweeper"]
    axes = [[(key, value) for value in re.split(r",(?![^\[{]*[\]}])", str(values))]
            for key, values in sweeper.get("params", {}).items()]
    rows = [[_word(word) for word in words.split()] for words in sweeper.get("sets") or [""]]
    return [dict([*row, *free]) for row in rows for free in itertools.product(*axes)]


def settings(words: Mapping[str, str], table: str | None = None) -> Settings:
    """What a command line runs with, a table's own settings below its words. Raises KeyError for what conf/ does not
    have."""
    stated = _read(f"table/{table}") if table else {}
    said = {key: value for key, value in words.items() if key in GROUPS}
    chosen = _chosen({**_overrides(stated), **said})
    tree: Tree = {}
    for layer in (_read("config"), _read(f"method/{chosen['method']}"), _recipe(f"/recipe/{chosen['recipe']}"),
                  _read(f"scale/{chosen['scale']}"), {"model": _read(f"model/{chosen['model']}")},
                  {"task": _read(f"task/{chosen['task']}")}, stated):
        tree = _merged(tree, {key: value for key, value in layer.items() if key not in ("defaults", "hydra")})
    for key, value in words.items():
        if key not in GROUPS:
            node: Any = yaml.safe_load(value)
            for part in reversed(key.split(".")):
                node = {part: node}
            tree = _merged(tree, node)
    return Settings(tree, chosen["recipe"])


class Settings:
    """Composed settings, each resolved when it is asked for."""

    def __init__(self, tree: Tree, recipe: str) -> None:
        """recipe: the file's name under conf/recipe."""
        self._tree, self.recipe = tree, recipe

    def __getitem__(self, path: str) -> Any:
        """A setting by its dotted name, references replaced. Raises KeyError where there is none."""
        node: Any = self._tree
        for part in path.split("."):
            if not isinstance(node, Mapping) or part not in node:
                raise KeyError(path)
            node = node[part]
        return self._resolved(node, path)

    def get(self, path: str, default: Any = None) -> Any:
        """The same, or a default."""
        try:
            return self[path]
        except KeyError:
            return default

    def _resolved(self, value: Any, path: str) -> Any:
        while isinstance(value, str) and (found := INNERMOST.search(value)):
            meant = self._meant(found[1], path)
            value = meant if found[0] == value else value.replace(found[0], str(meant))
        return value

    def _meant(self, reference: str, path: str) -> Any:
        if reference.startswith("oc.select:"):
            name, _, default = reference.removeprefix("oc.select:").partition(",")
            return self.get(name, yaml.safe_load(default))
        return self[f"{path.rpartition('.')[0]}{reference}" if reference.startswith(".") else reference]


def _chosen(said: Mapping[str, str]) -> Words:
    """The file of each group: what is said, else what the task or the scale asks for, else config.yaml's."""
    chosen: Words = {}
    for entry in _read("config")["defaults"]:
        if isinstance(entry, Mapping):
            chosen |= {key: str(value) for key, value in entry.items() if key in GROUPS}
    for group in ("task", "scale"):
        chosen |= _overrides(_read(f"{group}/{said.get(group, chosen[group])}"))
    chosen |= said
    for group in GROUPS:
        chosen["recipe"] = chosen["recipe"].replace(f"${{{group}}}", chosen[group])
    return chosen


def _overrides(stated: Tree) -> Words:
    """`override /model: gpt2-medium` and the like, of a file's defaults."""
    found = {re.sub(r"^override /|@.*$", "", key): str(value) for entry in stated.get("defaults", [])
             if isinstance(entry, Mapping) for key, value in entry.items() if str(key).startswith("override /")}
    return {key: value for key, value in found.items() if key in GROUPS}


@cache
def _recipe(name: str) -> Tree:
    """A recipe with those that it builds on."""
    stated = _read(name.removeprefix("/"))
    tree: Tree = {}
    for entry in stated.get("defaults", ["_self_"]):
        if isinstance(entry, str):
            tree = _merged(tree, stated if entry == "_self_" else _recipe(entry))
    return tree


@cache
def _read(name: str) -> Tree:
    path = CONF / f"{name}.yaml"
    if not path.is_file():
        raise KeyError(f"conf/{name}.yaml")
    stated: Tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return stated


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Both as one, the latter stronger; neither changes."""
    made = dict(below)
    for key, value in above.items():
        under = made.get(key)
        made[key] = _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return made


def _word(said: str) -> tuple[str, str]:
    key, _, value = said.partition("=")
    return key, value


def keyed(words: Mapping[str, str], without: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """Words as a key of a dictionary."""
    return tuple(sorted((key, value) for key, value in words.items() if key not in without))
