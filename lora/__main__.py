"""python -m lora SOURCE FOLDER --to ours|peft [--alpha X]: an adapter of any form, written as ours or as PEFT's.

SOURCE is a folder of ours or PEFT's, or a loralib file (.bin, .pt), whose alpha is not in it: give it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engine.contract import Refused


def main() -> int:
    """Exit status 0, or 2 on a wrong request."""
    parser = argparse.ArgumentParser(prog="python -m lora", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="an adapter's folder or file")
    parser.add_argument("folder", type=Path, help="where to write it; made if it is not there")
    parser.add_argument("--to", choices=("ours", "peft"), required=True)
    parser.add_argument("--alpha", type=float, help="of a file that does not say its own (loralib's)")
    asked = parser.parse_args()
    from lora import files  # imports torch, which --help need not wait for

    try:
        if asked.folder.is_dir() and any(asked.folder.iterdir()):
            raise Refused(f"{asked.folder}: not empty; name a new folder")
        adapter = files.read(asked.source, asked.alpha)
        path = {"ours": files.write, "peft": files.write_peft}[asked.to](adapter, asked.folder)
    except Refused as error:
        print(f"lora: {error}", file=sys.stderr)
        return 2
    print(f"{len(adapter.updates)} updates and {len(adapter.rest)} other tensors, read as {adapter.form}\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
