"""`kata image` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kata.ctl.__main__ import main
from tests.unit.images import crafted


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KATA_DATA_DIR", str(tmp_path / "data"))


def test_from_import_to_removal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = crafted.small(tmp_path / "l", config={"Labels": {"a": "\x1b[31mred"}})
    source, archive = str(tmp_path / "l"), str(tmp_path / "a.tar")

    def kata(*words: str) -> str:
        assert main(["image", *words]) == 0
        return capsys.readouterr().out

    assert kata("import", source, "org/app") == "org/app:latest\n"
    assert json.loads(kata("import", "--json", source, "other"))["digest"] == digest
    assert [image["name"] for image in json.loads(kata("ls", "--json"))] == ["org/app:latest", "other:latest"]
    table = kata("ls").splitlines()
    assert table[0].split() == ["IMAGE", "DIGEST", "ARCHITECTURE", "SIZE"]
    assert table[1].split()[:3] == ["org/app:latest", digest[7:19], crafted.GO_ARCH]
    shown = kata("inspect", "org/app")
    assert "\x1b" not in shown
    assert json.loads(shown)["config"]["labels"] == {"a": "\x1b[31mred"}
    assert json.loads(kata("inspect", "--json", "org/app")) == json.loads(shown)
    assert kata("export", "org/app", archive) == ""
    assert json.loads(crafted.skopeo("inspect", f"oci-archive:{archive}"))["Digest"] == digest
    assert kata("rm", "org/app", "other") == "org/app\nother\n"
    assert json.loads(kata("ls", "--json")) == []


def test_failures_are_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "rm", "nothing"]) == 1
    shown = capsys.readouterr().err
    assert "there is no image nothing in the local store" in shown
    assert "hint: `kata image ls`" in shown


@pytest.mark.parametrize("words", [["image"], ["image", "rm"], ["image", "import"], ["image", "nonsense"]])
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
