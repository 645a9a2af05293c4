"""The parameter audit: built counts, formulas and printed figures, row by row, and the pages that are committed."""

import csv
from pathlib import Path

import pytest
from conftest import ROOT

from analysis import claims, exhibit
from analysis.exhibits import parameters
from analysis.exhibits.parameters import Figure
from analysis.write import write

SOURCE = ROOT.parent / "shared" / "paper" / "parameter_counts.csv"
READINGS = {"match_rounded": "rounded", "match_truncated": "cut", "match_if_M_means_2^20": "2^20",
            "nominal_size": "zeros"}   # what the file of facts says of a row, and what the audit has to find
with parameters.FACTS.open(encoding="utf-8", newline="") as file:
    FACTS = list(csv.DictReader(file))
ROWS = pytest.mark.parametrize("place", range(len(FACTS)), ids=[
    f"{row['table']}-{row['model']}-{row['method']}-{row['printed']}-{row['config']}" for row in FACTS])


@pytest.fixture(scope="module")
def found() -> list[Figure]:
    return parameters.audit(parameters.FACTS)


def key(figure: Figure) -> tuple[str, str, str]:
    return figure.model, figure.method, figure.printed


# --- row by row -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SOURCE.is_file(), reason="the transcribed sources are not beside the checkout")
def test_the_facts_are_the_transcribed_ones() -> None:
    assert parameters.FACTS.read_bytes() == SOURCE.read_bytes()


@ROWS
def test_what_is_built_has_the_exact_count_and_that_of_the_formula(found: list[Figure], place: int) -> None:
    assert found[place].built == int(FACTS[place]["exact_params"])
    assert found[place].formula == int(FACTS[place]["exact_params"])


@ROWS
def test_the_simplest_reading_is_what_the_facts_say(found: list[Figure], place: int) -> None:
    figure, row = found[place], FACTS[place]
    assert figure.percent == pytest.approx(100 * float(row["relative_difference"]), abs=1e-4)
    assert figure.plain == (row["status"] in READINGS)
    assert figure.reading == READINGS.get(row["status"], figure.reading)


def test_the_file_is_whole(found: list[Figure]) -> None:
    assert len(found) == len(FACTS) >= 86
    assert {row["status"] for row in FACTS} == {*READINGS, "no_match"}


# --- findings -------------------------------------------------------------------------------------------------------


def test_the_findings_are_the_rows_that_do_not_fit(found: list[Figure]) -> None:
    assert [bool(f.finding) for f in found] == [row["status"] == "no_match" for row in FACTS]
    assert all(f.finding for f in found if f.known == "nearest")   # no whole number fits these
    assert {claims.reason(*key(f)) for f in found if f.finding} == set(claims.REASONS.values())   # none is idle


def test_which_figures_only_a_wider_reading_gives_and_which_none(found: list[Figure]) -> None:
    wide = {key(f): list(f.readings) for f in found if f.finding and f.readings}
    label = ["0.1 %, rounded"]
    assert wide == {
        ("deberta-v2-xxlarge", "LoRA", "4.7M"): ["+head, rounded"],
        ("gpt2-medium", "PreLayer", "0.35M"): [*label, "+layer, cut"], ("gpt2-medium", "LoRA", "0.35M"): label,
        ("gpt2-large", "PreLayer", "0.77M"): label, ("gpt2-large", "LoRA", "0.77M"): label,
        ("gpt3-175b", "LoRA", "603.8M"): ["2 x 301.9M"]}
    none = {key(f) for f in found if f.reading == "none"}
    prefix = {("gpt3-175b", "PreLayer", f"{size}M") for size in ("5.1", "10.1", "20.2", "44.1", "76.1")}
    assert none == prefix | {
        ("gpt2-medium", "FT", "354.92M"), ("gpt2-medium", "Adapter-H", "11.09M"), ("gpt3-175b", "FT", "175,255.8M"),
        ("gpt3-175b", "BitFit", "14.2M"), ("gpt3-175b", "LoRA", "37.7M"), ("gpt3-175b", "LoRA+PL", "52.8M")}


def test_the_head_explains_no_other_lora_row(found: list[Figure]) -> None:
    """What the finding on DeBERTa says."""
    rows = [f for f in found if f.method == "LoRA" and any(reading.startswith("+head") for reading in f.readings)]
    assert [f.label for f in rows] == ["DeB_XXL (LoRA), r of Table 10"]


def test_no_whole_r_gives_adapter_h_its_figure(found: list[Figure]) -> None:
    """What the finding on GPT-2 medium says, LayerNorms in or out."""
    from analysis import built

    figure = next(f for f in found if key(f) == ("gpt2-medium", "Adapter-H", "11.09M"))
    for r in range(1, 300):
        s = built.sizes(figure.model, figure.config) | {"r": r}
        count = claims.FORMULAS["Adapter-H"](s)
        assert claims.fits("Adapter-H", figure.printed, count, claims.variants("Adapter-H", s, count, 0)) == []


# --- how a figure is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "printed", "ways"), [
    (1_250_000, "1.3M", ["rounded"]), (1_250_000, "1.2M", ["cut", "2^20"]), (1_350_000, "1.2M", []),
    (1_249_999, "1.2M", ["rounded", "cut", "2^20"]), (1_349_999, "1.4M", []), (491_520, "0.4M", ["cut"]),
    (174_604_259_328, "175B", ["rounded"]), (175_255_849_999, "175,255.8M", ["rounded", "cut"]),
    (175_255_850_000, "175,255.8M", ["cut"]), (25_192_448, "24M", ["2^20"]), (1_564_549_632, "1500.0M", ["zeros"]),
    (1_664_549_632, "1500.0M", []), (3_171_840, "3.0M", ["2^20", "zeros"]),
    (23_002_848, "23.00M", ["rounded", "cut", "zeros"]),
])
def test_a_count_as_it_is_printed(count: int, printed: str, ways: list[str]) -> None:
    assert claims.notations(count, printed) == ways


def test_a_plain_reading_comes_before_a_wider_one_and_rounding_before_cutting() -> None:
    assert claims.fits("LoRA", "1.2M", 1_299_999, {"a": [1_299_999], "b": [1_299_998], "c": [7, 1_200_000]}) == [
        "cut", "2^20", "c, rounded", "b, cut"]
    assert claims.fits("LoRA", "1.2M", 1_200_000, {}) == ["rounded"]
    assert claims.fits("LoRA", "9.9M", 1_200_000, {"a": [1]}) == []


# --- the headline claims --------------------------------------------------------------------------------------------


def headlines(full: int, small: int) -> str:
    """The rows of both tables, as Markdown has them."""
    rows = [*claims.headline(full, {4: small}).rows, *claims.memory(full, small).rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_headlines_follow_from_the_counts(found: list[Figure]) -> None:
    counts = {f.config: f.built for f in found if f.model == "gpt3-175b"}
    full, small = next(f.built for f in found if key(f) == ("gpt3-175b", "FT", "175B")), counts["r_q=4;r_v=4"]
    text = headlines(full, small)
    for said in (f"{round(full / small):,} times", f"{full * 2 / 1e9:.1f} GB to {small * 2 / 1e6:.1f} MB",
                 f"{(full * 2 + small * 200) / 1e9:.1f} GB against {full * 200 / 1e12:.2f} TB",
                 f"{100 * small / full:.4f} %", f"| 6.9 | 1.2 TB | 350 GB | {1200 / 350:.1f} |"):
        assert said in text
    for cost in (6, 8, 16):
        ft, lora = cost * full, 2 * full + cost * small
        assert f"| {cost} | {ft / 1e12:.2f} TB | {lora / 1e9:.1f} GB | {ft / lora:.1f} |" in text
    assert 6 * full < 1.2e12 < 8 * full   # what the text below the table says
    assert headlines(2 * full, small) != text


# --- the pages and the command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(found: list[Figure]) -> exhibit.Exhibit:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters, "audit", lambda path: found)   # counting takes half a minute
        return parameters.make(exhibit.Inputs(ROOT / "nowhere", [], []))


@pytest.mark.parametrize("name", ["parameters.md", "parameters.csv", "parameters.tex"])
def test_the_committed_pages_are_what_the_command_writes(made: exhibit.Exhibit, name: str, tmp_path: Path) -> None:
    write("parameters", made, tmp_path)
    assert (tmp_path / "tables" / name).read_bytes() == (ROOT / "results" / "tables" / name).read_bytes()


def test_every_row_is_in_its_table(found: list[Figure], made: exhibit.Exhibit) -> None:
    tables = {table.title: [list(row) for row in table.rows] for table in made.tables}
    for figure in found:
        rows = tables[f"Table {figure.table}"]
        assert any(row[0] == figure.label and row[5:7] == [figure.printed, parameters.signed(figure.percent)]
                   for row in rows), figure
    assert [title for title in tables if title.startswith("Table ")] == [
        f"Table {number}" for number in dict.fromkeys(row["table"] for row in FACTS)]
    assert "-0.00" not in str(made)
