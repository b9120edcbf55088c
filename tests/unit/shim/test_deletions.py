"""A shim whose last task is deleted ends: when it is told to, also beforehand, and when nobody tells it."""

from __future__ import annotations

import threading

from kata.shim.deletions import Deletions

NEVER = 3600.0


def test_the_process_ends_when_what_is_being_deleted_is_gone() -> None:
    ended = threading.Event()
    deletions = Deletions(ended.set, NEVER)
    with deletions.of("pod"), deletions.of("container"):
        deletions.shut_down_after(["pod", "container"])
    deletions.check(lambda: False)
    assert not ended.is_set()
    deletions.check(lambda: True)
    assert ended.is_set()


def test_it_goes_on_with_a_task_that_nobody_deletes() -> None:
    ended = threading.Event()
    deletions = Deletions(ended.set, NEVER)
    with deletions.of("container"):
        deletions.shut_down_after(["pod", "container"])
    deletions.check(lambda: False)
    with deletions.of("pod"):
        pass
    deletions.check(lambda: True)
    assert not ended.is_set()


def test_it_ends_when_nobody_says_shutdown() -> None:
    ended = threading.Event()
    Deletions(ended.set, 0.01).check(lambda: True)
    assert ended.wait(30.0)


def test_it_goes_on_when_there_is_another_task_by_then() -> None:
    ended, looked = threading.Event(), threading.Event()
    answers = iter([True, False])

    def idle() -> bool:
        answer = next(answers)
        if not answer:
            looked.set()
        return answer

    Deletions(ended.set, 0.01).check(idle)
    assert looked.wait(30.0)
    assert not ended.wait(0.1)
