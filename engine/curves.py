"""Where a run's numbers go besides its record: nowhere, or to Weights & Biases. The only file that knows wandb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.words import main_process


class Curves:
    """Called with the numbers of every epoch; the first of them opens the run. table: the sweep that groups its runs,
    or None, where the cell does: its seeds stand together."""

    def __init__(self, settings: dict[str, Any], table: str | None) -> None:
        self.settings = settings
        self.table = table
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
                                  group=self.table or cell, job_type=cell, name=f"{cell}-s{self.settings['seed']}",
                                  config=self.settings, reinit="create_new")  # beside those of other runs
        if self.run is not None:
            self.run.log(numbers)

    def close(self, result: Path | Exception) -> None:
        """Adds the finished record, or that there is none."""
        if self.run is not None:
            if isinstance(result, Path):
                self.run.summary.update(json.loads(result.read_text(encoding="utf-8")))
            self.run.finish(exit_code=int(not isinstance(result, Path)))
