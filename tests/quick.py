"""Hydra without its repetition: it reads and composes the same forty files of conf/ twice in every call, which is most
of what a call of the door costs, and the tests make a thousand. Here each file is read once for as long as it stays as
it is, and the composing that only asks whether this is a sweep is left out where no word can say so.

What is handed out is a copy of what Hydra itself made of the file, so that all else is Hydra's own; the programs that
tests start in processes of their own know nothing of this.
"""

from __future__ import annotations

import functools
import os
import pickle
from pathlib import Path
from typing import Any

CONF = Path(__file__).parents[1] / "conf"
hydras_own: Any = None   # Hydra.get_mode, once read_once() has put another in its place


@functools.cache
def read_once() -> None:
    """From now on, in this process, for every way into Hydra."""
    _files()
    _trees()
    _modes()


def _files() -> None:
    from hydra._internal.config_repository import ConfigRepository

    real, kept = ConfigRepository.load_config, {}

    def load_config(self: ConfigRepository, config_path: str) -> Any:
        key = (config_path, *((source.scheme(), source.path, source.provider, stamp(source, config_path))
                              for source in self.sources))
        if key not in kept:
            found = real(self, config_path)
            if found is None:   # what is not there may come: a plugin's settings, say
                return None
            kept[key] = pickle.dumps(found, pickle.HIGHEST_PROTOCOL)
        return pickle.loads(kept[key])

    ConfigRepository.load_config = load_config   # type: ignore[method-assign]


def _trees() -> None:
    """What a text with ${…} parses to is only read."""
    import omegaconf._utils
    import omegaconf.base
    from omegaconf.grammar_parser import parse

    for module in (omegaconf.base, omegaconf._utils):
        module.parse = functools.cache(parse)   # type: ignore[attr-defined]


def _modes() -> None:
    """Hydra composes all to read hydra.mode, and takes what cannot be composed for null, then composes again."""
    from hydra._internal.hydra import Hydra

    global hydras_own
    hydras_own, saying = Hydra.get_mode, tuple(_say_the_mode())

    def get_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        if config_name == "config" and not any(word.lstrip("+~").startswith(saying) for word in overrides):
            return None
        return hydras_own(self, config_name, overrides)

    Hydra.get_mode = get_mode   # type: ignore[method-assign]


def _say_the_mode() -> set[str]:
    """How a word begins that may set hydra.mode: hydra, and the groups of conf/ with a file that does (table)."""
    files = (path for path in CONF.rglob("*.yaml") if "MULTIRUN" in path.read_text("utf-8"))
    groups = {str(path.parent.relative_to(CONF)) for path in files}
    assert "." not in groups, "conf/config.yaml makes every call a sweep: this shortcut is wrong"
    return groups | {"hydra"}


def stamp(source: Any, config_path: str) -> tuple[int, ...] | None:
    """What changes with a file's content: its time, size and number; None where there is none."""
    name = config_path if config_path.endswith((".yaml", ".yml")) else f"{config_path}.yaml"
    try:
        seen = os.stat(os.path.join(source.path, name))
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino
