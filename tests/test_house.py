"""The map of the house: who may import whom, and which names are not used."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

ROOMS = ("engine", "lora", "baselines", "tasks", "analysis", "hydra_plugins")
MAY = {
    "engine": ("engine",),
    "lora": ("lora", "engine.contract", "engine.backbone", "engine.files"),
    "tasks": ("tasks", "engine.contract", "engine.files", "engine.hub"),
    "baselines": ("baselines", "lora", "engine.contract", "engine.backbone"),
    "analysis": ("analysis", "engine.record", "engine.files", "engine.contract", "engine.hub", "engine.work",
                 "lora.files"),
    "hydra_plugins": ("hydra_plugins", "engine"),   # the folder that Hydra looks for plugins in
}
# The parameter audit counts what is built; every other exhibit only reads.
ALSO = {"analysis/built.py": ("baselines", "lora.method", "engine.models", "engine.backbone", "engine.spec",
                              "engine.contract")}
FILES = sorted([ROOT / "run.py", *(path for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.py"))])
FORBIDDEN = {"datasets", "evaluate", "peft", "wandb", "types", "utils", "core", "common", "misc"}


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module that a from-import names, relative dots resolved."""
    if not node.level:
        return node.module or ""
    parts = path.relative_to(ROOT).with_suffix("").parts[:-node.level]
    return ".".join([*parts, *([node.module] if node.module else [])])


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere; `from engine import record` counts as engine.record."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, path)
            for alias in node.names:
                below = ROOT.joinpath(*module.split("."), alias.name)
                is_module = below.with_suffix(".py").is_file() or below.is_dir()
                found.add(f"{module}.{alias.name}" if is_module else module)
    return found


def within(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    wrong = {f"{label(path)}: {module}" for path in FILES if room_of(path) == room for module in imported(path)
             if module.partition(".")[0] in (*ROOMS, "run")
             and not within(module, (*MAY[room], *ALSO.get(label(path), ())))}
    assert wrong == set()


@pytest.mark.parametrize(("library", "where"), [("hydra", "run.py"), ("omegaconf", "run.py"),
                                                 ("wandb", "engine/curves.py")])
def test_only_one_knows(library: str, where: str) -> None:
    """Besides, what Hydra loads as its plugins knows Hydra."""
    known = {label(path) for path in FILES if room_of(path) != "tests"
             and any(within(name, (library,)) for name in imported(path))}
    plugins = {name for name in known if name.startswith("hydra_plugins/") and library != "wandb"}
    assert known - plugins == {where}


def test_what_is_asked_first_loads_nothing_heavy() -> None:
    """At module level: what a wrong request passes before it is refused must be light."""
    for name in ("contract", "hub", "files", "work", "claim", "holder", "plan"):
        body = ast.parse((ROOT / "engine" / f"{name}.py").read_text()).body
        top = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {alias.name.partition(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {(node.module or "").partition(".")[0] for node in top if isinstance(node, ast.ImportFrom)}
        assert names.isdisjoint({"torch", "transformers", "datasets", "evaluate", "huggingface_hub"}), name


@pytest.mark.parametrize("folder", ["conf", "results"])
def test_data_folders_hold_no_python(folder: str) -> None:
    assert [label(path) for path in (ROOT / folder).rglob("*.py*")] == []


def test_no_module_has_a_forbidden_name() -> None:
    assert [label(path) for path in FILES if FORBIDDEN & set(path.relative_to(ROOT).with_suffix("").parts)] == []


def test_every_package_is_declared() -> None:
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in FILES if path.name == "__init__.py"}
    assert sorted(declared) == sorted(there - {"tests"})


def test_every_room_says_what_it_is_for() -> None:
    silent = [label(path) for path in FILES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert silent == []
