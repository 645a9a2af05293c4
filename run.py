"""The one door: Hydra in, one record out. Only this file and hydra_plugins/ know hydra and omegaconf.

A wrong request ends here: one or two lines on stderr, exit status 2, nothing written. Nothing heavy is imported before
the request is composed, so --help answers at once.
"""

from __future__ import annotations

import io
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
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from engine import door, kin, ranks, show
from engine.contract import Elsewhere, Refused, Stopped, Unfinished, one_of
from engine.record import NotWritten, value

ROOT = Path(__file__).resolve().parent
CONF = ROOT / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(config: DictConfig) -> float | None:
    """One cell, of a plain call or of a sweep, or those that train at once. Gives the first's number, for search=…"""
    chosen = HydraConfig.get()
    ranks.join()
    try:
        return _job(config, list(chosen.overrides.task), chosen)
    except (Refused, HydraException) as error:
        refused = _refused(error)  # instantiate() wraps what a constructor raised
        if chosen.mode == RunMode.RUN and refused is not None:
            _say(refused)
            raise SystemExit(2) from None  # Hydra would add a line of its own to an exception
        raise refused or error from None


def _job(config: DictConfig, words: list[str], chosen: Any) -> float | None:
    launcher = chosen.runtime.choices.get("hydra/launcher")
    if chosen.mode == RunMode.RUN and launcher != "basic":
        raise Refused(f"hydra/launcher={launcher} launches the cells of a sweep: add -m, or say table=…")
    said = config.runtime if OmegaConf.is_dict(config.runtime) else {}
    if chosen.mode == RunMode.RUN and (said.get("together") or said.get("beside")):
        raise Refused("runtime.together: this is one run: add -m and several values, seed=0,1,2,3,4 say")
    if "run" in config.task:  # a study: it trains nothing, so it has neither method nor recipe
        settings = _plain(OmegaConf.masked_copy(config, ["task", "model", "scale", "seed", "runtime"]))
        study = hydra.utils.instantiate(settings["task"], _convert_="all")
        return study.run(study, settings, words, ROOT)
    settings = _settings(config, words, chosen)
    wanted = settings["runtime"]["show"]
    one_of("runtime.show", wanted, ("recipe", "diff", "parameters", "plan", None))
    if wanted == "plan":
        raise Refused("runtime.show=plan: this is one run; a plan is of a sweep: table=…, or -m with several values")
    if wanted in ("recipe", "diff"):
        return print(show.recipe(settings) if wanted == "recipe" else show.diff(_variants(settings, words)))
    made, others = _cell(settings), kin.beside(words, settings["runtime"]["beside"] or [])

    from engine import cell, record
    from engine.curves import Curves

    if wanted == "parameters":
        return print(cell.parameters(made))
    cells = [made, *(_cell(_settings(hydra.compose("config", line), line, chosen)) for line in others)]
    curves = [Curves(one.settings, chosen.runtime.choices.get("table")) for one in cells]
    results = cell.run_all(cells, curves) if others else [cell.run(made, curves[0])]
    for each, result in zip(curves, results, strict=True):
        each.close(result)
    return record.read(kin.checked(results)[0]).value


def _settings(config: DictConfig, words: list[str], chosen: Any) -> dict[str, Any]:
    """The resolved settings with the source of each hyperparameter: the recipe's own word, or where it was changed."""
    door.check_choices(chosen.runtime.choices, _names("method"))
    settings = _plain(config)
    said = {word.partition("=")[0] for word in words} & settings["_sources"].keys()
    if said:
        silent = _plain(hydra.compose("config", [word for word in words if word.partition("=")[0] not in said]))
        tabled = door.swept(chosen.runtime.choices, chosen.sweeper)
        for key in said:
            if value(settings, key) != value(silent, key):  # the recipe's own number, said again, stays its
                settings["_sources"][key] = tabled.get(key, "command line")
    return settings


def _cell(settings: dict[str, Any]) -> Any:
    from engine.resolve import Cell
    from engine.spec import ModelSpec, decode_of, recipe_of

    recipe, decode = recipe_of(settings), decode_of(settings)  # before task and method, which import torch
    task, method = (hydra.utils.instantiate(settings[key], _convert_="all") for key in ("task", "method"))
    return Cell(settings, task, method, recipe, decode, ModelSpec(**settings["model"]), settings["_sources"], ROOT)


def _planned(config: DictConfig, words: list[str]) -> Any:
    """The cell of a sweep's command line; None for a study."""
    chosen, config = config.hydra, OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    if "run" in config.task:
        return None
    try:
        return _cell(_settings(config, words, chosen))
    except HydraException as error:
        raise _refused(error) or error from None


job.__wrapped__.planned = _planned  # for the sweeper (hydra_plugins/lora_paper), which is given the function


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


def _refused(error: BaseException | None) -> Refused | None:
    """The Refused behind an error, if there is one."""
    while error is not None and not isinstance(error, Refused):
        error = error.__cause__
    return error


def _say(error: object) -> None:
    print(f"run.py: {error}", file=sys.stderr)


def main() -> int:
    """The exit status: 0 done, 1 a crash in training (its traceback is shown), 2 a request that cannot be served."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to Hydra's own printer
    try:
        for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a sign must not cost a run
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        if {"--help", "-h"} & set(sys.argv[1:]):  # Hydra's own copies all of conf/ first: seconds
            return print(yaml.safe_load((CONF / "config.yaml").read_text())["hydra"]["help"]["template"]) or 0
        for word in sys.argv[1:]:
            door.check_word(word, _names)
        sys.argv += door.stand_in(sys.argv[1:], CONF / "task")
        job()
    except (Refused, HydraException, OmegaConfBaseException) as error:
        from hydra_plugins.lora_paper import mistakes

        found = mistakes.real(error, sys.argv[1:], CONF)
        _say(_refused(error) or door.explained(found, _names, lambda: mistakes.keys(CONF)))
        return 2
    except (NotWritten, Unfinished, Elsewhere, Stopped) as error:
        _say(error)
        return 128 + getattr(error, "number", 15) if isinstance(error, Stopped) else 1
    except BrokenPipeError:  # the reader of our output, head say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
