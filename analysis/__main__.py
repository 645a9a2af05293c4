"""python -m analysis [NAME …]: the paper's tables and figures from the records, ours beside theirs; no name: all.

Tables go to RESULTS/tables (Markdown, LaTeX, CSV), figures to RESULTS/figures (SVG).

  python -m analysis                        every exhibit
  python -m analysis table2 figure3         these, and their tables on the screen
  python -m analysis --list                 what there is and what each needs
  python -m analysis report                 every exhibit, and one page with all of them: RESULTS/report.html
  python -m analysis adapters PATH [PATH]   adapter files from anywhere: spectra, norms, and how alike two are
"""

from __future__ import annotations

import argparse
import ast
import difflib
import sys
from importlib import import_module
from pathlib import Path

from tqdm.auto import tqdm

from analysis import exhibit, markdown
from analysis.write import write
from engine.contract import Refused

FOLDER = Path(__file__).parent / "exhibits"


def main() -> int:
    """Exit status 0 when all went well, 1 when some records could not be read, 2 on a wrong request."""
    try:
        if sys.argv[1:2] == ["adapters"]:
            from analysis import adapters

            return adapters.main(sys.argv[2:])
        return _exhibits(_asked())
    except Refused as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"analysis: {error.filename}: {error.strerror}; nothing was left half written", file=sys.stderr)
        return 1


def _asked() -> argparse.Namespace:
    there = names()
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(there)}, report [all but report]")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the results folder [results]")
    parser.add_argument("--list", action="store_true", help="what there is and what each needs; makes nothing")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in (*there, "report"):
            near = difflib.get_close_matches(name, [*there, "report"], 3, 0.5)
            raise Refused(f"{name}: no such exhibit{'; did you mean ' + ' or '.join(near) + '?' if near else ''}\n"
                          "python -m analysis --list says what there is")
    if not asked.results.is_dir():
        raise Refused(f"--results {asked.results}: no such folder")
    return asked


def _exhibits(asked: argparse.Namespace) -> int:
    if asked.list:
        print("\n".join(f"{name:<15}{what}\n{'':<15}needs {needs}" for name, (what, needs) in names().items()))
        return 0
    given = exhibit.inputs(asked.results)
    for what in given.broken:
        print(f"left out: {what}", file=sys.stderr)
    whole = not asked.names or "report" in asked.names
    chosen = list(names()) if whole else list(dict.fromkeys(asked.names))
    made = {}
    with tqdm(chosen, unit="exhibit", leave=False, disable=None) as bar:
        for name in bar:
            bar.set_description(name)
            made[name] = import_module(f"analysis.exhibits.{name}").make(given)
            paths = write(name, made[name], asked.results)
            shown = ", ".join(f"{path.parent.name}/{path.name}" for path in paths)
            bar.write(f"{name:<15}{_state(made[name])}: {shown}" if whole else markdown.page(made[name]))
    if "report" in asked.names:
        from analysis import report

        print(f"report         {report.write(made, given)}")
    print(f"{len(given.records)} records, {len(made)} exhibits; written to {asked.results}/tables and "
          f"{asked.results}/figures")
    return 1 if given.broken else 0


def _state(made: exhibit.Exhibit) -> str:
    """How much of an exhibit is there, in a few words."""
    parts = [f"{len(made.tables)} tables" if len(made.tables) > 1 else "", f"{len(made.figures)} figures"
             if made.figures else "", f"{len(made.missing)} missing" if made.missing else "complete"]
    return ", ".join(filter(None, parts))


def names() -> dict[str, tuple[str, str]]:
    """The folder is the registry: every exhibit in the paper's order, with its first line and its NEEDS, unimported."""
    found = {}
    for path in FOLDER.glob("[a-z]*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        needs = [node.value.value for node in tree.body if isinstance(node, ast.Assign)
                 and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "NEEDS"
                 and isinstance(node.value, ast.Constant)]
        found[path.stem] = ((ast.get_docstring(tree) or "").partition("\n")[0], str(needs[0]))
    return dict(sorted(found.items(), key=lambda entry: _place(entry[0])))


def _place(name: str) -> tuple[int, int, str]:
    """Tables by number, then figures by number, then what the paper does not have."""
    kind = next((place for place, word in enumerate(("table", "figure")) if name.startswith(word)), 2)
    number = "".join(sign for sign in name if sign.isdigit())
    return kind, int(number) if kind < 2 and number else 0, name


if __name__ == "__main__":
    sys.exit(main())
