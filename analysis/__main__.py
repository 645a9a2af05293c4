"""python -m analysis [EXHIBIT]: an exhibit of the paper; without a name, the runs recorded so far.

Tables go to RESULTS/tables. An exhibit is a file beside this one with a function make(results) -> exit status.
"""

from __future__ import annotations

import argparse
import ast
import sys
from importlib import import_module
from pathlib import Path


def main() -> int:
    """Exit status 0 when all went well, 1 when some records could not be read, 2 on a wrong name or folder."""
    there = exhibits(Path(__file__).parent)
    parser = argparse.ArgumentParser(
        prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exhibits:\n" + "\n".join(f"  {name:<12}{what}" for name, what in there.items()))
    parser.add_argument("exhibit", nargs="?", default="runs", choices=list(there), metavar="EXHIBIT",
                        help=f"{', '.join(there)} [runs]")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the results folder [results]")
    asked = parser.parse_args()
    if not asked.results.is_dir():
        parser.error(f"{asked.results}: no such folder")
    status: int = import_module(f"analysis.{asked.exhibit}").make(asked.results)
    return status


def exhibits(folder: Path) -> dict[str, str]:
    """The folder is the registry: what each file with a make() says of itself in its first line, nothing imported."""
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))}
    return {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in trees.items()
            if any(isinstance(node, ast.FunctionDef) and node.name == "make" for node in tree.body)}


if __name__ == "__main__":
    sys.exit(main())
