"""python -m analysis [NAME …]: the paper's tables and figures from the records, ours beside theirs; no name: all.

Tables go to RESULTS/tables (Markdown, LaTeX, CSV), figures to RESULTS/figures (SVG).

  python -m analysis                        every exhibit
  python -m analysis table2 figure3         these, and their tables on the screen
  python -m analysis --list                 what there is and what each needs
  python -m analysis cost                   what every table takes to train, on a GPU that was measured or by a rule
  python -m analysis report                 every exhibit, and one page with all of them: RESULTS/report.html
  python -m analysis adapters PATH [PATH]   adapter files from anywhere: spectra, norms, and how alike two are
  python -m analysis status [NAME]          how a sweep stands: what is done, what runs where, what failed and why
"""

from __future__ import annotations

import argparse
import ast
import difflib
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract import Refused

if TYPE_CHECKING:
    from analysis.exhibit import Exhibit

ELSEWHERE = {f"table{number}": "it has hyperparameters: conf/recipe, and python run.py … runtime.show=recipe"
             for number in (9, 10, 11, 12, 17)} | {"figure1": "it is a sketch of the method: lora/layer.py"}
FOLDER = Path(__file__).parent / "exhibits"


def main() -> int:
    """Exit status 0 when all went well, 1 when some records could not be read, 2 on a wrong request."""
    try:
        if sys.argv[1:2] in (["adapters"], ["status"]):
            return int(import_module(f"analysis.{sys.argv[1]}").main(sys.argv[2:]))
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
            near = difflib.get_close_matches(name, [*there, "report", "adapters", "status"], 3, 0.5)
            hint = ELSEWHERE.get(name) or (f"did you mean {' or '.join(near)}?" if near else "")
            raise Refused(f"{name}: no such exhibit{'; ' * bool(hint)}{hint}\n"
                          "python -m analysis --list says what there is")
    if not asked.results.is_dir():
        raise Refused(f"--results {asked.results}: no such folder")
    above = next((folder for folder in asked.results.absolute().parents if (folder / "runs").is_dir()
                  and asked.results.absolute().is_relative_to(folder / "runs")), None)
    if above and not (asked.results / "runs").is_dir():
        raise Refused(f"--results {asked.results}: a folder of records inside a results folder\nsay --results {above}")
    return asked


def _exhibits(asked: argparse.Namespace) -> int:
    if asked.list:
        print("\n".join(f"{name:<15}{what}\n{'':<15}needs {needs}" for name, (what, needs) in names().items()
                        if name in (asked.names or names())))
        return 0

    from tqdm.auto import tqdm  # only now what takes a second to import

    from analysis import exhibit, markdown
    from analysis.markdown import many
    from analysis.write import write

    given = exhibit.inputs(asked.results)
    for what in given.broken:
        print(f"left out: {what}", file=sys.stderr)
    named = [name for name in dict.fromkeys(asked.names) if name != "report"]
    chosen = list(names()) if not named or "report" in asked.names else named
    made = {}
    with tqdm(chosen, unit="exhibit", leave=False, disable=None) as bar:
        for name in bar:
            bar.set_description(name)
            made[name] = import_module(f"analysis.exhibits.{name}").make(given)
            paths = write(name, made[name], asked.results)
            shown = ", ".join(f"{path.parent.name}/{path.name}" for path in paths)
            bar.write(f"{name:<15}{_state(made[name])}: {shown}" if name not in named else markdown.page(made[name]))
    if "report" in asked.names:
        from analysis import report

        print(f"report         {report.write(made, given)}")
    print(f"{many(len(given.records), 'record')}, {many(len(made), 'exhibit')}; written to {asked.results}/tables and "
          f"{asked.results}/figures")
    if not given.records:
        print("nothing of ours is in them yet: python run.py task=mnli method=lora r=8 scale=demo makes a first record")
    return 1 if given.broken else 0


def _state(made: Exhibit) -> str:
    """How much of an exhibit is there, in a few words."""
    from analysis.markdown import many

    parts = [many(len(made.tables), "table") if made.tables else "", many(len(made.figures), "figure")
             if made.figures else "", f"{len(made.missing)} not there" if made.missing else ""]
    return ", ".join(filter(None, parts)) or "empty"


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
