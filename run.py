"""The one door: Hydra in, one record out. The only file that knows hydra, omegaconf and wandb.

A wrong request ends here: one or two lines on stderr, exit status 2, nothing written. Nothing heavy is imported before
the request is composed, so --help answers at once.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from pathlib import Path
from typing import Any

# Threads that wait for each other sleep instead of spinning. With one other busy process on the machine, spinning makes
# a training step some ten times slower; it must be said before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from engine.contract import Refused
from engine.record import NotWritten

ROOT = Path(__file__).resolve().parent
CONF = ROOT / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(config: DictConfig) -> None:
    """One cell: of a plain call, or one of a sweep's."""
    choices = HydraConfig.get()
    try:
        _job(config, list(choices.overrides.task))
    except (Refused, HydraException) as error:
        refused = _refused(error)  # instantiate() wraps what a constructor raised
        if choices.mode == RunMode.RUN and refused is not None:
            _say(refused)
            raise SystemExit(2) from None  # Hydra would add a line of its own to an exception
        raise refused or error from None


def _job(config: DictConfig, overrides: list[str]) -> None:
    settings = _plain(config)
    for key in {override.partition("=")[0] for override in overrides} & settings["_sources"].keys():
        settings["_sources"][key] = "command line"
    show = settings["runtime"]["show"]
    if show in ("recipe", "diff"):
        from engine import show as shown

        print(shown.recipe(settings) if show == "recipe" else shown.diff(_variants(settings, overrides)))
        return
    if show not in (None, "parameters"):
        raise Refused(f"runtime.show={show}: runtime.show must be one of recipe, diff, parameters")

    from engine import cell
    from engine.spec import ModelSpec, recipe_of

    recipe = recipe_of(settings)  # before task and method, which import torch
    task, method = (hydra.utils.instantiate(settings[key], _convert_="all") for key in ("task", "method"))
    made = cell.Cell(settings, task, method, recipe, ModelSpec(**settings["model"]), settings["_sources"], ROOT)
    if show == "parameters":
        print(cell.parameters(made))
    else:
        curves = _Curves(settings)
        curves.close(cell.run(made, curves))


def _plain(config: DictConfig) -> dict[str, Any]:
    """The resolved settings as a plain dict. Raises Refused when the recipe has no column for the task."""
    try:
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise Refused(f"{key} is needed: say {key}=…") from None
    except InterpolationResolutionError as error:
        raise Refused(f"recipe {config.recipe.name} has no {error.full_key} for task={config.task.name}; "
                      "another recipe may: see conf/recipe") from None
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def _variants(settings: dict[str, Any], overrides: list[str]) -> dict[str, dict[str, Any]]:
    """This cell under every recipe that conf/recipe has for its model and method."""
    model, method = settings["model"]["name"], settings["method"]["name"]
    others = [word for word in overrides if not word.startswith("recipe=")]
    names = sorted(path.stem for path in (CONF / "recipe" / model).glob(f"{method}*.yaml")
                   if path.stem == method or path.stem.startswith(f"{method}-"))
    found = {}
    for name in names:
        try:
            found[name] = _plain(hydra.compose("config", [*others, f"recipe={model}/{name}"]))
        except Refused as error:
            print(f"left out: {error}", file=sys.stderr)
    return found


class _Curves:
    """Where a run's numbers go besides its record: nowhere, or to wandb, from the first number on."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.on = settings["runtime"]["wandb"] != "off" and int(os.environ.get("RANK", 0)) == 0
        self.run: Any = None

    def __call__(self, numbers: dict[str, Any]) -> None:
        """Logs the numbers of an epoch."""
        if self.on and self.run is None:
            import wandb

            folder = Path(self.settings["runtime"]["out"]) / "wandb"
            folder.mkdir(parents=True, exist_ok=True)
            cell = "-".join(self.settings[key]["name"] for key in ("task", "model", "method"))
            self.run = wandb.init(project="lora-paper", mode=self.settings["runtime"]["wandb"], dir=str(folder),
                                  group=cell, name=f"{cell}-s{self.settings['seed']}", config=self.settings)
        if self.run is not None:
            self.run.log(numbers)

    def close(self, record: Path) -> None:
        """Adds the finished record."""
        if self.run is not None:
            self.run.summary.update(json.loads(record.read_text(encoding="utf-8")))
            self.run.finish()


def _refused(error: BaseException | None) -> Refused | None:
    """The Refused behind an error, if there is one."""
    while error is not None and not isinstance(error, Refused):
        error = error.__cause__
    return error


def _say(error: object) -> None:
    print(f"run.py: {error}", file=sys.stderr)


def _explain(error: Exception) -> str:
    """An error of Hydra's in a line or two, with the nearest name that would have worked."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = list(error.options or [])
        if group.startswith("recipe"):
            folder = CONF / group
            there = sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []
            return (f"{error.missing_cfg_file}: no such recipe, so no hyperparameters; {group} has "
                    f"{', '.join(there) or 'nothing'}")
        near = difflib.get_close_matches(name, options, 1, 0.6)
        return (f"{group}={name}: no such {group}; " + (f"did you mean {near[0]}? " if near else "")
                + f"There are {', '.join(options)}")
    first = str(error).splitlines()[0]
    if isinstance(error, ConfigCompositionException) and "Could not override" in first:
        key = first.split("'")[1]
        near = difflib.get_close_matches(key, [name for name in _keys() if name != key], 1, 0.6)
        return (f"{key}: no such setting here" + (f"; did you mean {near[0]}?" if near else "")
                + " (a method owns its settings: r, alpha and targets are LoRA's); python run.py --help")
    if "Ambiguous value" in first:
        return f"{first}; write key=[a,b] for a list, or add -m to run each"
    return first


def _keys() -> list[str]:
    """Every setting of the default cell, in dotted form: where misspelt keys are looked up."""
    def flat(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, dict) or not node:
            return [prefix]
        return [key for name, value in node.items() for key in flat(value, f"{prefix}.{name}" if prefix else str(name))]

    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return flat(OmegaConf.to_container(hydra.compose("config")), "")


def main() -> int:
    """The exit status: 0 done, 1 a crash in training (its traceback is shown), 2 a request that cannot be served."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to Hydra's own printer
    try:
        for word in sys.argv[1:]:
            if word.startswith(("+", "~")):
                raise Refused(f"{word}: settings can be changed, not added or removed; python run.py --help")
        job()
    except (Refused, HydraException, OmegaConfBaseException) as error:
        _say(_refused(error) or _explain(error))
        return 2
    except NotWritten as error:
        _say(error)
        return 1
    except BrokenPipeError:  # the reader of our output, head say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _say("interrupted; no record was written")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
