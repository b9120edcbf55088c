"""What the documentation says of requests and options is all there is, and is there."""

from __future__ import annotations

import re
from pathlib import Path

from kata.agentctl.__main__ import build_parser
from kata.agentctl.helptext import EXAMPLES
from kata.agentctl.rpcs import all_methods
from kata.agentctl.script import split

DOCS = Path(__file__).parents[3] / "docs"


def test_the_rights_of_every_request_are_said() -> None:
    rows = [line for line in (DOCS / "agent.md").read_text().splitlines() if line.startswith("| ")]
    said = {word for row in rows for word in re.findall(r"\b[A-Z]\w+", row.split("|")[1])}
    assert {found.name for found in all_methods()} - said == set()


def test_every_option_is_documented_and_every_documented_one_exists() -> None:
    documented = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", (DOCS / "agent-ctl.md").read_text()))
    options = [action.option_strings for action in build_parser()._actions if action.option_strings]
    unsaid = [names for names in options if not documented & set(names)]
    assert unsaid == [["-h", "--help"], ["--version"]]
    known = {name for names in options for name in names}
    assert {name for name in documented if name.startswith("--")} - known == {"--vm"}


def test_the_documented_requests_exist() -> None:
    names = {found.name for found in all_methods()}
    for line in (DOCS / "agent-ctl.md").read_text().splitlines():
        for word in re.findall(r"^(?:expect \S+ |repeat \d+ )?([A-Z][a-z]+[A-Z]\w+)", line):
            assert word in names, line
    joined = EXAMPLES.replace("\\\n", " ")
    for line in joined.splitlines():
        if "kata-agent-ctl --s" in line:
            words = split(line.strip().replace("$(kata ps --json | jq -r .id)", "x"), {})
            request = next(word for word in words if word[0].isupper())
            assert request in names, line
