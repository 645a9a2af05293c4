"""Answers to wrong requests: what is wrong, and the nearest thing that would have been right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from engine.contract import Refused

GROUPS = ("task", "model", "method", "recipe", "scale")

SPOKEN = {  # what others call our settings
    "learning_rate": "lr", "batch_size": "batch", "per_device_train_batch_size": "runtime.micro_batch", "rank": "r",
    "lora_r": "r", "lora_alpha": "alpha", "target_modules": "targets", "max_length": "length",
    "max_seq_length": "length",
    "num_epochs": "epochs", "num_train_epochs": "epochs", "warmup_ratio": "warmup", "warmup_steps": "warmup",
    "dataset": "task", "device": "runtime.device", "output_dir": "runtime.out", "out": "runtime.out",
    "force": "runtime.force", "show": "runtime.show", "wandb": "runtime.wandb", "limit": "task.limit",
    "path": "model.path",
}


def check_word(word: str) -> None:
    """Refuses a word of the command line that Hydra would take but that means nothing here."""
    key, _, value = word.partition("=")
    if word.startswith(("+", "~")):
        raise Refused(f"{word}: settings can be changed, not added or removed; python run.py --help")
    if re.search(r"(^|\.)_", key):
        raise Refused(f"{word}: what begins with _ is a comment, not a setting")
    if key in ("method.r", "method.alpha", "method.targets"):
        raise Refused(f"{word}: say {key.removeprefix('method.')}= without method., or the run would be named wrongly")
    if key in (*GROUPS, "table") and (value in ("null", "true", "false") or not re.match(r"['\"]?[A-Za-z]", value)):
        raise Refused(f"{word}: {key} must be a name; python run.py --help lists them")


def check_settings(settings: Any) -> dict[str, Any]:
    """The composed settings, if every group is one still."""
    for key in (*GROUPS, "runtime"):
        if not isinstance(settings[key], dict):
            raise Refused(f"{key}={settings[key]}: {key} is a group of settings, such as {key}.name=…")
    out = settings["runtime"]["out"]
    if not isinstance(out, str) or not out:
        raise Refused(f"runtime.out={out}: runtime.out must be a folder")
    return {str(key): value for key, value in settings.items()}


def unknown_setting(key: str, keys: Sequence[str]) -> str:
    """For a setting that this cell does not have; keys are those of the default cell."""
    if key in keys:
        return f"{key}: no such setting with this method, model or task (a method owns its settings: r is LoRA's)"
    near = SPOKEN.get(key.lower()) or next(iter(get_close_matches(key.lower(), keys, 1, 0.6)), None)
    return f"{key}: no such setting" + (f"; did you mean {near}" if near else "") + "; all: python run.py --help"


def unknown_option(group: str, name: str, options: Sequence[str]) -> str:
    """For a task, model, method, scale or table that conf/ does not have."""
    near = get_close_matches(name.lower(), options, 1, 0.6)
    return f"{group}={name}: no such {group}; " + (f"did you mean {near[0]}? " if near else "") + (
        f"there are {', '.join(options)}")


def unknown_recipe(name: str, there: Sequence[str]) -> str:
    """For a model and method, or a recipe name, without hyperparameters; there: the recipes of that model."""
    return (f"{name}: no such recipe, so no hyperparameters; recipe/{name.rpartition('/')[0]} has "
            f"{', '.join(there) or 'nothing'}")


def no_number(recipe: str, key: str, task: str) -> str:
    """For a recipe without a column for the task."""
    return (f"recipe {recipe} has no {key} for task={task}: add the task to its table (conf/recipe/{recipe}.yaml), "
            f"or choose another recipe")
