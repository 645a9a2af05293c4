"""The frame around the exhibits: the paper's numbers, the command, what is written, the report."""

import csv
import hashlib
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from analysis import __main__ as command
from analysis import latex, markdown, plots, report
from analysis.exhibit import PRINTED, Exhibit, Figure, Inputs, Table, inputs, printed
from analysis.write import write
from engine.record import read

pytestmark = pytest.mark.usefixtures("own_cache")
EMPTY = Inputs(ROOT / "nowhere", [], [])
NAMES = list(command.names())


# --- the paper's numbers --------------------------------------------------------------------------------------------

DIGESTS = {
    "dart": "19c6610186f4c100", "gpt3_hyperparameter_analysis": "fbc4dd6d10ef5af2", "low_data_mnli": "b85bbdb2f5aa333d",
    "parameter_counts": "de9700894c73cdfc", "rank_gpt2_e2e": "d6765a2863415960", "table1_latency": "fe859b3ef26a353d",
    "table2_glue": "6d2780fb41b64295", "table3_e2e": "88a8c1de46016f86", "table4_gpt3": "f07aac627e6eb375",
    "table5_weight_types": "43f7d000c6d26957", "table6_rank": "163760b19dfa40d1",
    "table7_amplification": "2ce7a18978dbea27", "table8_fewshot": "254787443716751d", "webnlg": "baed8d50423cd321"}
# How many printed rows a table has, and how many numbers each.
SHAPES = {"table2_glue": (14, 9), "table3_e2e": (12, 5), "table4_gpt3": (8, 5), "dart": (11, 3), "webnlg": (11, 9),
          "gpt3_hyperparameter_analysis": (30, 2), "low_data_mnli": (4, 4), "rank_gpt2_e2e": (11, 6),
          "table5_weight_types": (7, 2), "table6_rank": (15, 2)}


def facts(name: str) -> list[dict[str, str]]:
    with (PRINTED / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_facts_are_unchanged_and_all_there() -> None:
    found = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in PRINTED.glob("*.csv")}
    assert found == DIGESTS


@pytest.mark.skipif(not (ROOT.parent / "shared" / "paper").is_dir(), reason="the sources are not beside the checkout")
@pytest.mark.parametrize("name", DIGESTS)
def test_the_facts_are_the_transcribed_ones(name: str) -> None:
    folder = ROOT.parent / "shared" / "paper" / ("" if name == "parameter_counts" else "tables")
    assert (PRINTED / f"{name}.csv").read_bytes() == (folder / f"{name}.csv").read_bytes()


@pytest.mark.parametrize("name", SHAPES)
def test_every_row_of_a_table_has_every_number(name: str) -> None:
    across = name in ("table5_weight_types", "table6_rank")   # their rows are tasks, their columns variants
    rows = Counter((row["model"], row["method"], "" if across else row["row_label"], row["variant"])
                   for row in facts(name))
    count, width = SHAPES[name]
    assert (len(rows), set(rows.values())) == (count, {width})


def test_the_averages_of_table_2_follow_from_their_rows() -> None:
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    for row in facts("table2_glue"):
        key = (row["model"], row["method"], row["row_label"], row["variant"])
        groups.setdefault(key, {})[row["task"]] = float(row["value"])
    for key, values in groups.items():
        average = values.pop("glue_average")
        assert abs(sum(values.values()) / 8 - average) < 0.0501 + 1e-9, key


def test_printed_keeps_every_digit() -> None:
    assert "0.90" not in "" and "37.71" in set(printed("table7_amplification")["value"])
    assert "1.90" in set(printed("table7_amplification")["value"]), "a trailing zero was lost"


# --- every exhibit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "parameters"])   # counting models takes its time
def test_without_any_record_an_exhibit_says_what_it_lacks(name: str, tmp_path: Path) -> None:
    made = import_module(f"analysis.exhibits.{name}").make(EMPTY)
    assert made.missing and all(len(said) > 10 for said in made.missing)
    paths = write(name, made, tmp_path)
    assert made.title in paths[0].read_text(encoding="utf-8")
    check_tables(made)


def test_what_the_issue_names_is_there() -> None:
    tables = {f"table{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 13, 14, 15, 16, 18)}
    figures = {f"figure{number}" for number in range(2, 9)}
    beyond = {"spectrum", "amplification", "control", "forest", "provenance", "splitdev", "parameters", "runs", "demo",
              "cost"}
    assert set(NAMES) == tables | figures | beyond
    assert NAMES[:13] == sorted(tables, key=lambda name: int(name[5:])) and NAMES[13:20] == sorted(figures)


def check_tables(made: Exhibit) -> None:
    """Every row as long as its head, every cell a string, every figure an SVG that can be read."""
    for table in made.tables:
        assert {len(row) for row in table.rows} <= {len(table.columns)}, table.title
        assert all(isinstance(cell, str) for row in [table.columns, *table.rows] for cell in row), table.title
        assert set(table.right) <= set(range(len(table.columns)))
        text = latex.tabular(table, "tab:x")
        assert text.isascii() or not re.search(r"[^\x00-\x7fÀ-ſ]", text), re.findall(r"[^\x00-\x7fÀ-ſ]", text)
    for figure in made.figures:
        ET.fromstring(figure.svg)
        assert figure.caption


# --- what is written ------------------------------------------------------------------------------------------------


def drawn(name: str) -> Figure:
    with plots.panels(1, 2, 2.0, 1.5) as (figure, axes):
        plots.heat(axes[0, 0], [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]], 0, 1, [1, 2, 3], [1, 2])
        axes[0, 1].plot([1, 2], [3, 4], color=plots.COLOURS[0])
        axes[0, 1].set_xlabel("i")
        return Figure(name, "two panels", plots.svg(figure))


def planted(figures: list[Figure]) -> Exhibit:
    table = Table("ours | theirs", ("method", "50 % & more_"), [("LoRA", "87.5 ± 0.3"), ("RoB (FT)*", "—")], (1,))
    return Exhibit("Table 99: planted", ["*Some* prose with <b>tags</b>."], [table], figures,
                   pd.DataFrame({"value": [0.1 + 0.2]}), ["the rest: `python run.py`"])


def test_an_exhibit_is_written_in_every_form_and_its_stale_files_go(tmp_path: Path) -> None:
    paths = write("table99", planted([drawn("table99-a"), drawn("table99-b")]), tmp_path)
    assert sorted(path.name for path in paths) == ["table99-a.svg", "table99-b.svg", "table99.csv", "table99.md",
                                                   "table99.tex"]
    text = (tmp_path / "tables" / "table99.md").read_text(encoding="utf-8")
    assert r"**ours | theirs**" in text and r"RoB (FT)\*" in text and "- the rest" in text
    assert (tmp_path / "tables" / "table99.csv").read_text() == "value\n0.3\n"
    bystander = tmp_path / "figures" / "table9-a.svg"
    bystander.write_text("another exhibit's")
    first = (tmp_path / "figures" / "table99-a.svg").read_bytes()
    write("table99", Exhibit("Table 99", [], [], [drawn("table99-a")], None, []), tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["table9-a.svg", "table99-a.svg", "table99.md"]
    assert (tmp_path / "figures" / "table99-a.svg").read_bytes() == first and b"202" not in first[:600]


def test_latex_escapes_what_it_would_read() -> None:
    text = latex.tabular(planted([]).tables[0], "tab:planted-1")
    assert r"50 \% \& more\_" in text and r"87.5 $\pm$ 0.3 \\" in text and "---" in text
    assert latex.escape("a_b^2 {x} \\ ~ #1 $") == (r"a\_b\textasciicircum{}2 \{x\} \textbackslash{} \textasciitilde{} "
                                                   r"\#1 \$")
    assert text.count("{") == text.count("}") and text.count(" & ") == 3


def test_a_row_that_begins_with_a_bracket_is_no_option() -> None:
    assert latex.line(["[q,v]", "1"]).startswith("{}[q,v]")


def test_a_heat_map_puts_its_first_row_on_top_and_cells_on_their_numbers() -> None:
    with plots.panels(1, 1, 2.0, 2.0) as (_, axes):
        image = plots.heat(axes[0, 0], [[0.0, 1.0], [0.2, 0.3], [0.4, 0.5]], 0, 1, [1, 2], [1, 2, 3])
        assert image.get_extent() == [0.5, 2.5, 3.5, 0.5] and image.origin == "upper"
        assert (image.norm.vmin, image.norm.vmax) == (0, 1)


def test_a_record_s_words_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    """Records may come from anyone: neither a figure's name nor a weights folder leaves the results folder."""
    figure = Figure("figure3-../../../x\" onload=\"", "", "<svg/>")
    assert re.fullmatch(r"[\w.-]+", figure.name) and Figure("../x", "", "").name == "--x"
    results, outside = tmp_path / "results", tmp_path / "outside"
    outside.mkdir()
    (outside / "best.safetensors").write_bytes(b"")
    good = read(next((ROOT / "results" / "runs").rglob("*.json")))
    given = Inputs(results, [], [])
    for place in ("../outside", str(outside)):
        assert given.weights(replace(good, weights=place)) is None
    (results / "inside").mkdir(parents=True)
    (results / "inside" / "best.safetensors").write_bytes(b"")
    assert given.weights(replace(good, weights="inside")) == results / "inside" / "best.safetensors"
    assert given.weights(replace(good, weights=None)) is None


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("parameters", "demo")])
def test_the_committed_exhibit_is_what_the_records_give(name: str) -> None:
    """Tables are compared as they are read, so that another machine's last digits do not count."""
    made = import_module(f"analysis.exhibits.{name}").make(inputs(ROOT / "results"))
    assert (ROOT / "results" / "tables" / f"{name}.md").read_text(encoding="utf-8") == markdown.page(made)
    there = {path.stem for path in (ROOT / "results" / "figures").glob(f"{name}*.svg")}
    assert there == {figure.name for figure in made.figures}


# --- the report -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Which tags are open, which ids there are, what is fetched from elsewhere."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self._note(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def _note(self, tag: str, attributes: Mapping[str, str | None]) -> None:
        self.ids += [attributes["id"] or ""] if "id" in attributes else []
        self.links += [(tag, attributes[name] or "") for name in ("href", "src", "xlink:href") if name in attributes]


def test_the_report_is_one_page_with_every_figure_and_nothing_from_elsewhere() -> None:
    figures = [drawn("table99-a"), drawn("table99-b")]
    text = report.page({"table99": planted(figures), "table98": planted([])}, EMPTY)
    page = Page(text)
    assert page.open == [] and page.wrong == []
    assert len(page.ids) == len(set(page.ids)) and {"table99", "table98", "environment"} <= set(page.ids)
    assert text.count("<svg ") == 2 and text.count(plots.INK) == 1 and "var(--ink)" in text
    fetched = [link for tag, link in page.links if not link.startswith(("#", "data:image/png"))]
    assert fetched == ["https://arxiv.org/abs/2106.09685v2"]   # a link to read, not to load
    assert "<script" not in text and "@import" not in text and "&lt;b&gt;tags" in text
    assert text == report.page({"table99": planted(figures), "table98": planted([])}, EMPTY)


def test_what_a_record_says_is_text_in_the_report() -> None:
    """HTML, Markdown pictures and links in a record's words load and run nothing."""
    odd = 'x"><img src=q onerror=alert(1)> ![x](http://evil/a.png) [y](http://evil) <http://evil> \\1'
    good = read(next((ROOT / "results" / "runs").rglob("*.json")))
    table = Table(odd, [odd], [[odd]], ())
    made = Exhibit(odd, [odd], [table], [Figure(f"figure3-{odd}", odd, drawn("x").svg)], None, [odd])
    text = report.page({"table99": made}, Inputs(ROOT, [replace(good, device=odd, model=odd)], [odd]))
    page = Page(text)
    assert page.open == [] and page.wrong == [] and "<img" not in text
    assert all(link.startswith(("#", "data:image/png")) or "arxiv" in link for _, link in page.links)


def test_references_inside_a_figure_lead_to_its_own_parts() -> None:
    text = str(report.inline(drawn("one")))
    ids = set(re.findall(r' id="([^"]+)"', text))
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    assert used and used <= ids and all(name.startswith("one-") for name in ids)


# --- the command ----------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["analysis", *words])
    try:
        return command.main()
    except SystemExit as stop:
        return int(stop.code or 0)


def test_all_twice_is_the_same_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the committed records: every exhibit but the parameter audit, which has a test of its own."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    chosen = [name for name in NAMES if name != "parameters"]
    for place in ("one", "two"):
        (tmp_path / place / "runs").symlink_to(ROOT / "results" / "runs")
        assert run(monkeypatch, *chosen, "--results", str(tmp_path / place)) == 0
    first, second = ({str(path.relative_to(tmp_path / place)): path.read_bytes() for path in
                      (tmp_path / place).glob("[tf]*/*")} for place in ("one", "two"))
    assert first == second and len(first) > len(chosen)


@pytest.mark.parametrize(("words", "answer"), [
    ("tabel2", "did you mean table2"), ("table9", "hyperparameters"),
    ("claims", "no such exhibit"), ("runs --results nowhere", "nowhere: no such"),
    ("runs --colour", "--colour"), ("adapters", "PATH"), ("adapters nowhere", "nowhere")])
def test_nonsense_is_refused(words: str, answer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                             capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    assert run(monkeypatch, *words.split()) == 2
    assert answer in capfd.readouterr().err and list(tmp_path.rglob("*.*")) == []


def test_the_list_says_what_each_exhibit_shows_and_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                         capfd: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--list", "--results", str(tmp_path)) == 0
    said = capfd.readouterr().out
    assert all(re.search(rf"^{name} +\S", said, re.MULTILINE) for name in NAMES) and list(tmp_path.iterdir()) == []


def test_a_broken_record_and_one_of_another_schema_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                             capfd: pytest.CaptureFixture[str]) -> None:
    good = next((ROOT / "results" / "runs").rglob("*.json"))
    folder = tmp_path / "runs" / "paper" / "cola"
    folder.mkdir(parents=True)
    (folder / "good.json").write_bytes(good.read_bytes())
    (folder / "half.json").write_bytes(good.read_bytes()[:100])
    (folder / "old.json").write_text(good.read_text().replace('"schema": 1', '"schema": 0'))
    assert run(monkeypatch, "runs", "--results", str(tmp_path)) == 1
    said = capfd.readouterr()
    assert "half.json: not a whole record" in said.err and "old.json: a record of schema 0" in said.err
    assert "1 run in 1 cell" in said.out and len(inputs(tmp_path).broken) == 2


def test_a_folder_inside_a_results_folder_is_told_from_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                          capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs" / "paper").mkdir(parents=True)
    for folder in ("runs", "runs/paper"):
        assert run(monkeypatch, "runs", "--results", str(tmp_path / folder)) == 2
        assert f"say --results {tmp_path}" in capfd.readouterr().err
    assert run(monkeypatch, "runs", "--results", str(tmp_path)) == 0
    assert "nothing of ours is in them yet" in capfd.readouterr().out


def test_a_full_disk_leaves_the_old_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                          capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tables").mkdir()
    old = tmp_path / "tables" / "runs.md"
    old.write_text("old")
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device", "x")))
    assert run(monkeypatch, "runs", "--results", str(tmp_path)) == 1
    assert "No space left" in capfd.readouterr().err and old.read_text() == "old"
    assert list(tmp_path.rglob(".part-*")) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_nothing_is_wider_than_the_page_and_every_figure_is_drawn(width: int, tmp_path: Path) -> None:
    given = inputs(ROOT / "results")
    made = {name: import_module(f"analysis.exhibits.{name}").make(given) for name in NAMES}
    text = report.page(made, given)
    # Headless Chromium opens no window narrower than 500 pixels, so the page stands in a frame of the width.
    (tmp_path / "page.html").write_text(text.replace("</body>", """<script>
        const figures = [...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect());
        const wide = document.documentElement.scrollWidth > window.innerWidth;
        parent.postMessage([window.innerWidth, wide, figures.filter(box => box.width * box.height > 5000).length], '*');
        </script></body>"""), encoding="utf-8")
    (tmp_path / "frame.html").write_text(f"""<iframe src="page.html" style="width:{width}px;height:900px;border:0">
        </iframe><script>onmessage = event => document.title = event.data.join(' ')</script>""", encoding="utf-8")
    shown = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--no-first-run", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=10000", "--dump-dom", f"file://{tmp_path}/frame.html"],
        capture_output=True, text=True, timeout=120, check=True).stdout
    figures = sum(len(each.figures) for each in made.values())
    assert figures > 5 and f"<title>{width} false {figures}</title>" in shown, re.findall("<title>.*?</title>", shown)
