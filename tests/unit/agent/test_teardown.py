"""Undoing: in reverse, all of it whatever fails, and what failed once more."""

from __future__ import annotations

import pytest

from kata.agent.teardown import Teardown


def test_what_failed_is_tried_again_and_nothing_else() -> None:
    said: list[str] = []
    fails = {"b", "d"}

    def undo(name: str) -> None:
        said.append(name)
        if name in fails:
            raise OSError(name)

    teardown = Teardown()
    for name in "abcd":
        teardown.callback(undo, name)
    with pytest.raises(OSError, match="d"):
        teardown.close()
    assert said == ["d", "c", "b", "a"]
    fails.remove("d")
    said.clear()
    with pytest.raises(OSError, match="b"):
        teardown.close()
    assert said == ["d", "b"]
    fails.clear()
    teardown.close()
    said.clear()
    teardown.close()
    assert said == []
