"""What was meant by a command line that Hydra could not compose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from engine import door


def keys(conf: Path) -> list[str]:
    """The settings of the default cell: what a misspelt name may have meant."""
    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        return door.dotted(OmegaConf.to_container(hydra.compose("config")), "")


def real(error: Exception, words: Sequence[str], conf: Path) -> Exception:
    """Where Hydra stumbled over a sweep's comma, what is wrong besides: with -m, a table or a search a comma is not."""
    sweeps = {"-m", "--multirun"} & set(words) or any(word.startswith(("table=", "search=")) for word in words)
    if "Ambiguous value" not in str(error) or not sweeps:
        return error
    single = [word.partition(",")[0] for word in words if "=" in word and "[" not in word]
    try:
        with hydra.initialize_config_dir(str(conf), version_base="1.3"):
            hydra.compose("config", single, return_hydra_config=True)
    except HydraException as other:
        return other
    return error
