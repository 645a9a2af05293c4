"""Answers to wrong requests: what is wrong, and the nearest thing that would have been right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from engine.contract import Refused
from engine.record import VARIANT
from engine.spec import Decode

GROUPS = ("task", "model", "method", "recipe", "scale")
NAMED = (*GROUPS, "table", "search", "decode")  # what is chosen by a file's name

DECODERS = ("gpt", "decoder/", "text/", "smollm2/")  # recipes for models that can write texts begin so
LABELS = ("method.label", "method.design", "scale.data")  # with *.name: what a run is, not how it is done
OWNERS = {"r": "LoRA's and the adapters'", "alpha": "LoRA's", "targets": "LoRA's", "drop": "adapter-d's",
          "l_p": "the prefix methods'", "l_i": "the prefix methods'", "top": "ft-top2's"}

SPOKEN = {  # what others call our settings
    "learning_rate": "lr", "batch_size": "batch", "per_device_train_batch_size": "runtime.micro_batch", "rank": "r",
    "lora_r": "r", "bottleneck": "r", "adapter_size": "r", "num_virtual_tokens": "l_p",
    "lora_alpha": "alpha", "target_modules": "targets", "max_length": "length",
    "max_seq_length": "length",
    "num_epochs": "epochs", "num_train_epochs": "epochs", "warmup_ratio": "warmup", "warmup_steps": "warmup",
    "dataset": "task", "device": "runtime.device", "output_dir": "runtime.out", "out": "runtime.out",
    "force": "runtime.force", "show": "runtime.show", "wandb": "runtime.wandb", "limit": "task.limit",
    "path": "model.path", "dry": "runtime.show=parameters", "dry_run": "runtime.show=parameters",
    "runtime.dry": "runtime.show=parameters", "num_beams": "decode.beams", "beams": "decode.beams",
    "length_penalty": "decode.length_penalty", "no_repeat_ngram_size": "decode.no_repeat", "scored": "task.scored",
}


def check_word(word: str, names: Callable[[str], list[str]]) -> None:
    """Refuses a word of the command line that Hydra would take but that means nothing here. names: the files of a
    folder of conf/, for tables and ways to decode: Hydra passes over one that is not there, since they are optional."""
    key, _, value = word.partition("=")
    if word.startswith(("+", "~")):
        raise Refused(f"{word}: settings can be changed, not added or removed; python run.py --help")
    if re.search(r"(^|\.)_", key):
        raise Refused(f"{word}: what begins with _ is a comment, not a setting")
    group, _, own = key.rpartition(".")
    if (group in NAMED and own == "name") or key in LABELS:
        raise Refused(f"{word}: {key} says what a run is called in records and tables; choose another {group} instead")
    if key.startswith("method.") and own in VARIANT:
        raise Refused(f"{word}: say {own}= without method., or the run would be named wrongly")
    if key in NAMED and (value in ("null", "true", "false") or not re.match(r"['\"]?[A-Za-z]", value)):
        raise Refused(f"{word}: {key} must be a name; python run.py --help lists them")
    for name in value.split(",") if key in ("table", "search", "decode") else ():
        if name not in names(key):
            raise Refused(unknown_option(key, name, names(key)))


def stand_in(words: Sequence[str], tasks: Path) -> list[str]:
    """What scale=demo means for tasks with texts and no model named: their small decoder (`# demo: NAME` in the task's
    file) instead of MiniLM. Raises Refused where the tasks of one call need different ones."""
    said = dict(word.partition("=")[::2] for word in words)
    if said.get("scale") != "demo" or "model" in said or "table" in said:
        return []
    names = said.get("task", "mnli").split(",")
    files = [tasks / f"{name}.yaml" for name in names]
    texts = [file.read_text(encoding="utf-8") for file in files if file.exists()]
    models = {found[1] if (found := re.search(r"^# demo: (\S+)", text, re.M)) else None for text in texts}
    if len(models) > 1:
        raise Refused(f"task={said['task']}: these need different small models; run them apart, or name a model")
    return [f"model={name}" for name in models if name]


def check_settings(settings: Any) -> dict[str, Any]:
    """The composed settings, if every group is one still."""
    for key in (*GROUPS, "runtime"):
        if not isinstance(settings[key], dict):
            raise Refused(f"{key}={settings[key]}: {key} is a group of settings, such as {key}.name=…")
    out = settings["runtime"]["out"]
    if not isinstance(out, str) or not out:
        raise Refused(f"runtime.out={out}: runtime.out must be a folder")
    return {str(key): value for key, value in settings.items()}


def dotted(node: Any, prefix: str) -> list[str]:
    """The names of all settings in nested ones: runtime.out, …"""
    if not isinstance(node, dict) or not node:
        return [prefix]
    return [key for name, value in node.items() for key in dotted(value, f"{prefix}.{name}" if prefix else str(name))]


def swept(chosen: Mapping[str, str | None], sweeper: Mapping[str, Any]) -> dict[str, str]:
    """Where a setting comes from that a table or a search varies: table=NAME, search=NAME. sweeper: the settings of
    conf/hydra/sweeper as the table or the search has them."""
    parts = ("params", "sets", "between", "one_of")
    words = " ".join(word for part in parts for word in (sweeper.get(part) or ())).split()
    name = f"table={chosen['table']}" if chosen.get("table") else f"search={chosen.get('search')}"
    known = chosen.get("table") or chosen.get("search") not in (None, "none")
    return {word.partition("=")[0]: name for word in words} if known else {}


def explained(error: Any, names: Callable[[str], list[str]], keys: Callable[[], list[str]]) -> str:
    """An error of Hydra's (told by its name: this file does not know Hydra) in a line or two, with the nearest name
    that would have worked. names: the files of a folder of conf/; keys: the settings of the default cell."""
    kind, first = type(error).__name__, str(error).splitlines()[0]
    if kind == "MissingConfigException" and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group.startswith("recipe"):
            return unknown_recipe(error.missing_cfg_file.removeprefix("recipe/"), names(group), names("method"))
        return unknown_option(group, name, list(error.options or []))
    if kind == "ConfigCompositionException" and "Could not override" in first:
        return unknown_setting(first.split("'")[1], keys())
    if "Ambiguous value" in first:
        return f"{first}; add -m to run each, or write key=[a,b] for a list"
    if kind == "OverrideParseException":
        return f"{error.override}: not of the form setting=value ({first})"
    return first


def unknown_setting(key: str, keys: Sequence[str]) -> str:
    """For a setting that this cell does not have; keys are those of the default cell."""
    if key.startswith("decode."):
        names = get_close_matches(key.removeprefix("decode."), [field.name for field in fields(Decode)], 1, 0.6)
        return f"{key}: no such setting here" + (f"; did you mean decode.{names[0]}" if names else "") + (
            "; only tasks that answer with texts decode (e2e webnlg dart wikisql samsum mnli-lm)")
    if key in OWNERS or key in keys:
        owner = f": {key} is {OWNERS[key]}" if key in OWNERS else ""
        return f"{key}: no such setting with this method, model or task{owner}"
    if key.startswith("hydra.launcher."):
        return f"{key}: this launcher has no such setting; conf/hydra/launcher/*.yaml lists them"
    near = SPOKEN.get(key.lower())
    near = near or next(iter(get_close_matches(key.lower(), [*NAMED, *keys], 1, 0.6)), None)
    return f"{key}: no such setting" + (f"; did you mean {near}" if near else "") + "; all: python run.py --help"


def unknown_option(group: str, name: str, options: Sequence[str]) -> str:
    """For a task, model, method, scale or table that conf/ does not have."""
    near = [option for option in options if option.startswith(name.lower())] or get_close_matches(
        name.lower(), options, 1, 0.6)
    return f"{group}={name}: no such {group}; " + (f"did you mean {near[0]}? " if near else "") + (
        f"there are {', '.join(options)}")


def unknown_recipe(name: str, there: Sequence[str], ours: Sequence[str]) -> str:
    """For a model and method, or a recipe name, without hyperparameters; there: the recipes of that model, ours: those
    that fit any model."""
    folder, _, method = name.rpartition("/")
    decoder = f"{folder or name}/".startswith(DECODERS)
    way = (f"recipe=text/{method} (texts) and recipe=decoder/{method} (labels) are ours, for any decoder"
           if decoder else f"recipe=encoder/{method} is ours, for any encoder")
    way = f"\n{way}" if method in ours else ""
    if not folder:
        return f"recipe={name}: a recipe is MODEL/METHOD, such as {name}/lora; python run.py --help"
    return f"{name}: no such recipe, so no hyperparameters; recipe/{folder} has {', '.join(there) or 'nothing'}{way}"


def recipes_of(method: str, methods: Sequence[str], recipes: Sequence[str]) -> list[str]:
    """Those of a model's recipes that are for this method: lora and lora-official, but not lora-pe, are LoRA's."""
    return [recipe for recipe in recipes if _owner(recipe, methods) == method]


def check_choices(chosen: Mapping[str, str | None], methods: Sequence[str]) -> None:
    """Refuses a recipe of another method: its numbers and their sources would be another's."""
    method, recipe = str(chosen["method"]), str(chosen["recipe"])
    owner = _owner(recipe.rpartition("/")[2], methods)
    if owner != method:
        fix = f"is for method={owner}" if owner else "is for no method by itself"
        raise Refused(f"recipe={recipe} {fix}, not for method={method}; name a recipe of {method}, or none")


def _owner(recipe: str, methods: Sequence[str]) -> str:
    """The method whose name a recipe's name begins with; the longest of several."""
    return max((name for name in methods if f"{recipe}-".startswith(f"{name}-")), key=len, default="")


def no_number(recipe: str, key: str, asked: Any) -> str:
    """For a recipe without a column for the task, or (low-data recipes) for so many examples of it; for a way to decode
    that does not know the task. asked: the task's settings."""
    task, limit = asked.name, asked.limit
    if key.startswith("decode."):
        return (f"{key}: this decode= does not know task={task}: leave decode out if its answers are labels, else say "
                f"{key}=… or decode=greedy")
    if recipe.endswith("-low-data"):
        return (f"recipe {recipe} has no {key} for task={task} task.limit={limit}: Table 17 has MNLI alone, on 100, "
                "1000, 10000 or (task.limit=null) all examples")
    method = recipe.rpartition("/")[2].removesuffix("-official")
    texts, decoder = "scored" in asked, recipe.startswith(DECODERS)
    if texts and not decoder:
        return (f"task={task} is answered with texts, and recipe {recipe} is for an encoder, which cannot write\n"
                "name a decoder, such as model=gpt2-medium or model=smollm2")
    ways = f"recipe={'text' if texts else 'decoder'}/{method} is ours, for any decoder" if decoder else (
        f"add the task to its table (conf/recipe/{recipe}.yaml), or choose another recipe")
    more = f"; recipe=gpt3-175b/{method} has the paper's for GPT-3" if task in ("wikisql", "samsum", "mnli-lm") else ""
    return f"recipe {recipe} has no {key} for task={task}: {ways}{more}"
