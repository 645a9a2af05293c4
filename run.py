"""The one door: Hydra in, one record out. The only file that knows hydra, omegaconf and wandb.

A wrong request ends here: one or two lines on stderr, exit status 2, nothing written. Nothing heavy is imported before
the request is composed, so --help answers at once.
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

# Threads that wait for each other sleep instead of spinning. With one other busy process on the machine, spinning makes
# a training step some ten times slower; it must be said before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import hydra
except ModuleNotFoundError as missing:
    sys.exit(f"run.py: {missing.name} is not installed here: run `make demo` once, then use .venv/bin/python")
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from engine import door, show
from engine.contract import Refused, one_of
from engine.record import NotWritten, value
from engine.words import main_process

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
        if refused is not None:  # of a sweep, Hydra only tells the first
            _say(f"{' '.join(choices.overrides.task)}: {refused}")
        raise refused or error from None


def _job(config: DictConfig, overrides: list[str]) -> None:
    if "run" in config.task:  # a study: it trains nothing, so it has neither method nor recipe
        settings = _plain(OmegaConf.masked_copy(config, ["task", "model", "scale", "seed", "runtime"]))
        study = hydra.utils.instantiate(settings["task"], _convert_="all")
        return study.run(study, settings, overrides, ROOT)
    door.check_choices(HydraConfig.get().runtime.choices, _names("method"))
    settings = _plain(config)
    said = {word.partition("=")[0] for word in overrides} & settings["_sources"].keys()
    if said:
        silent = _plain(hydra.compose("config", [word for word in overrides if word.partition("=")[0] not in said]))
        for key in said:
            if value(settings, key) != value(silent, key):  # the recipe's own number, said again, stays its
                settings["_sources"][key] = "command line"
    wanted = settings["runtime"]["show"]
    one_of("runtime.show", wanted, ("recipe", "diff", "parameters", None))
    if wanted in ("recipe", "diff"):
        return print(show.recipe(settings) if wanted == "recipe" else show.diff(_variants(settings, overrides)))

    from engine import cell
    from engine.resolve import Cell
    from engine.spec import ModelSpec, decode_of, recipe_of

    recipe, decode = recipe_of(settings), decode_of(settings)  # before task and method, which import torch
    task, method = (hydra.utils.instantiate(settings[key], _convert_="all") for key in ("task", "method"))
    made = Cell(settings, task, method, recipe, decode, ModelSpec(**settings["model"]), settings["_sources"], ROOT)
    if wanted == "parameters":
        return print(cell.parameters(made))
    curves = _Curves(settings)
    curves.close(cell.run(made, curves))


def _plain(config: DictConfig) -> dict[str, Any]:
    """The resolved settings as a plain dict. Raises Refused when the recipe has no column for the task."""
    try:
        settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise Refused(f"{key} is needed: say {key}=…") from None
    except InterpolationResolutionError as error:
        raise Refused(door.no_number(config.recipe.name, str(error.full_key), config.task)) from None
    return door.check_settings(settings) if "recipe" in config else settings  # a study has none


def _variants(settings: dict[str, Any], overrides: list[str]) -> dict[str, dict[str, Any]]:
    """This cell under every recipe that conf/recipe has for its model and method."""
    folder, method = settings["recipe"]["name"].rpartition("/")[0], settings["method"]["name"]
    others = [word for word in overrides if not word.startswith("recipe=")]
    free = settings["decode"] and not any(word.startswith("decode=") for word in overrides)
    found = {}
    for name in door.recipes_of(method, _names("method"), _names(f"recipe/{folder}")):
        try:
            way = ["decode=official"] if free and name.endswith("-official") else []
            found[name] = _plain(hydra.compose("config", [*others, *way, f"recipe={folder}/{name}"]))
        except Refused as error:
            print(f"left out: {str(error).partition(':')[0]}", file=sys.stderr)
    return found


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


class _Curves:
    """Where a run's numbers go besides its record: nowhere, or to wandb, from the first number on."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.on = settings["runtime"]["wandb"] != "off" and main_process()
        self.run: Any = None

    def __call__(self, numbers: dict[str, Any]) -> None:
        """Logs the numbers of an epoch."""
        if self.on and self.run is None:
            import wandb
            folder = Path(self.settings["runtime"]["out"]).expanduser()  # wandb makes its own inside
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
        if group.startswith("recipe"):
            return door.unknown_recipe(error.missing_cfg_file.removeprefix("recipe/"), _names(group), _names("method"))
        return door.unknown_option(group, name, list(error.options or []))
    first = str(error).splitlines()[0]
    if isinstance(error, ConfigCompositionException) and "Could not override" in first:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):  # the default cell: for misspelt names
            keys = door.dotted(OmegaConf.to_container(hydra.compose("config")), "")
        return door.unknown_setting(first.split("'")[1], keys)
    if "Ambiguous value" in first:
        return f"{first}; write key=[a,b] for a list, or add -m to run each"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form setting=value ({first})"
    return first


def main() -> int:
    """The exit status: 0 done, 1 a crash in training (its traceback is shown), 2 a request that cannot be served."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to Hydra's own printer
    try:
        for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a sign must not cost a run
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        for word in sys.argv[1:]:
            door.check_word(word, _names)
        sys.argv += door.stand_in(sys.argv[1:], CONF / "task")
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
