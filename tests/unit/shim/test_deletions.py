"""A Shutdown that comes while the last tasks are being deleted is not forgotten; others are."""

from __future__ import annotations

from kata.shim.deletions import Deletions


def test_the_process_ends_when_what_is_being_deleted_is_gone() -> None:
    ended: list[bool] = []
    deletions = Deletions(lambda: ended.append(True))
    with deletions.of("pod"), deletions.of("container"):
        deletions.shut_down_after(["pod", "container"])
    deletions.check(idle=False)
    assert ended == []
    deletions.check(idle=True)
    assert ended == [True]


def test_it_goes_on_with_a_task_that_nobody_deletes() -> None:
    ended: list[bool] = []
    deletions = Deletions(lambda: ended.append(True))
    with deletions.of("container"):
        deletions.shut_down_after(["pod", "container"])
    deletions.check(idle=False)
    with deletions.of("pod"):
        pass
    deletions.check(idle=True)
    assert ended == []
