"""The shortcut through Hydra that the tests take gives what Hydra gives, and sees a file that changes."""

from pathlib import Path

import pytest
import quick
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    def read() -> object:
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            return compose("top").a

    for text, value in (("a: 1\n", 1), ("a: 2\nb: 0\n", 2), ("a: ${b}\nb: [3]\n", [3])):
        (tmp_path / "top.yaml").write_text(text)
        assert read() == value == read()


def test_what_is_handed_out_is_the_readers_own() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        one = compose("config", ["scale=demo"])
        one.task.name, one.betas[0] = "changed", 7
        again = compose("config", ["scale=demo"])
    assert again.task.name == "mnli" and again.betas[0] < 1


@pytest.mark.parametrize(("words", "mode"), [
    ([], None), (["task=cola", "r=4"], None), (["foo=1"], None), (["table=demo"], RunMode.MULTIRUN),
    (["hydra.mode=MULTIRUN"], RunMode.MULTIRUN), (["+table=demo"], None)])
def test_the_mode_is_hydras(words: list[str], mode: RunMode | None) -> None:
    """As Hydra finds it by composing all, and as it is found here."""
    plain = Hydra("run", ConfigLoaderImpl(create_config_search_path(str(ROOT / "conf"))))
    assert plain.get_mode("config", words) == mode == quick.hydras_own(plain, "config", words)
