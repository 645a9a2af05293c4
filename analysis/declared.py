"""What conf/ declares of a task and of a model, and in what a record departs from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from engine.record import Record, plain

CONF = Path(__file__).parents[1] / "conf"
ELSEWHERE = {"task.limit", "task.scored", "model.attention"}  # analysis.protocol has its own words for the first two
WHOLE = {"task.validation"}  # with one set fewer it is another number, so nothing may be lacking


def departures(record: Record) -> list[str]:
    """The settings of task and model that are not as declared, as they would be typed: task.train=validation. A setting
    that the record lacks is none (older records have fewer); weights from a folder are none either."""
    found: list[str] = []
    for group in ("task", "model"):
        said, wanted = plain(record.settings[group]), declared(group, str(getattr(record, group)))
        if wanted is not None:
            found += _apart(group, said, wanted)
    return [word for word in found if word != "model.path=folder"]


@cache
def declared(group: str, name: str) -> dict[str, Any] | None:
    """conf/<group>/<name>.yaml, with a model's roles, as a record has it; None where there is no such file."""
    files = {path.stem: path for path in (CONF / group).glob("*.yaml")}  # by listing: a record's name may be anything
    if name not in files:
        return None
    stated = yaml.safe_load(files[name].read_text(encoding="utf-8"))
    for entry in stated.pop("defaults", []):
        if isinstance(entry, Mapping) and "roles" in entry:
            roles = CONF / group / "roles" / f"{entry['roles']}.yaml"
            stated["roles"] = yaml.safe_load(roles.read_text(encoding="utf-8"))
    found: dict[str, Any] = plain(stated)
    return found


def _apart(key: str, said: Any, wanted: Any) -> Iterator[str]:
    if key in ELSEWHERE or said == wanted or wanted == "???":
        return
    if isinstance(said, Mapping) and isinstance(wanted, Mapping) and key not in WHOLE:
        for name in said:
            yield from _apart(f"{key}.{name}", said[name], wanted.get(name))
    else:
        yield f"{key}={_word(said)}"


def _word(what: Any) -> str:
    if isinstance(what, Mapping):
        return "{" + ", ".join(f"{key}: {_word(each)}" for key, each in what.items()) + "}"
    if isinstance(what, (list, tuple)):
        return f"[{', '.join(map(_word, what))}]"
    return "null" if what is None else str(what)
