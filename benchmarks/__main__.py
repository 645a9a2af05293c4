"""`python -m benchmarks`: how fast, and in how much memory, each beside what it is compared with.

Ways that are compared take turns in this process, so that what drifts meanwhile hits all of them alike; given are
medians and quartiles over the rounds."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from engine.contract import Refused, number
from engine.hub import ROOT

ROWS = tuple(sorted(path.stem for path in (Path(__file__).parent / "rows").glob("[!_]*.py")))
ROUNDS = {"cpu": 3, "cuda": 10}


def main(words: Sequence[str] | None = None) -> int:
    """Measures the rows asked for and writes what was found; returns the exit status."""
    ask = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("row", nargs="*", help=f"one or more of {', '.join(ROWS)} (all)")
    ask.add_argument("--rounds", type=int, help="times that each call is timed (3 on a CPU, 10 on a GPU)")
    ask.add_argument("--device", choices=("cpu", "cuda"), help="where (a GPU if there is one)")
    ask.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR", help="results folder")
    ask.add_argument("--data", type=Path, metavar="DIR", help="folder with glue/rte and glue/cola in the hub's layout")
    ask.add_argument("--quick", action="store_true", help="toy sizes: whether it works, not how fast")
    said = ask.parse_args(words)
    try:
        _measure(said)
    except Refused as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    return 0


def _measure(said: argparse.Namespace) -> None:
    unknown = [name for name in said.row if name not in ROWS]
    if unknown:
        raise Refused(f"{unknown[0]}: no such row; there are {', '.join(ROWS)}")
    number("--rounds", said.rounds, 1, whole=True, none=True)
    if said.data is not None and not said.data.is_dir():
        raise Refused(f"--data {said.data}: no such folder")
    from benchmarks import measured, written  # only now what takes seconds to import
    from benchmarks.bench import Bench
    from engine import device as devices

    device, _ = devices.pick(said.device or "auto", "fp32")
    bench = Bench(device, said.rounds or (1 if said.quick else ROUNDS[device.type]), said.quick, said.data)
    machine, kept = written.begin(said.results, bench)
    began = time.perf_counter()
    for name in said.row or ROWS:
        begin = time.perf_counter()
        part = measured.part(name, bench, datetime.now(UTC).isoformat(timespec="seconds"))
        kept = written.write(said.results, machine, kept, part)  # after every row: Ctrl-C costs one at most
        print(f"{name}: {part['missing'] or f'{time.perf_counter() - begin:.0f} s'}", file=sys.stderr, flush=True)
    paths = written.paths(said.results, machine)
    print(f"{time.perf_counter() - began:.0f} s; {paths[0]} and {paths[1].name}")


if __name__ == "__main__":
    sys.exit(main())
