"""Values that are more than a number or a word, and how two kernel command lines are joined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class SharedMount(NamedTuple):
    """A folder `src_path` of the container `src_ctr` that the container `dst_ctr` sees at `dst_path`."""

    name: str
    src_ctr: str
    src_path: str
    dst_ctr: str
    dst_path: str


class GuestExtension(NamedTuple):
    """One more read-only disk of the guest, with its dm-verity parameters."""

    name: str
    path: str
    verity_params: str = ""


def merge_kernel_params(ours: str, theirs: str) -> str:
    """`ours` and then `theirs`, without those of `ours` whose names `theirs` has too."""
    replaced = {_name(word) for word in kernel_words(theirs)}
    kept = [word for word in kernel_words(ours) if _name(word) not in replaced]
    return " ".join([*kept, *kernel_words(theirs)])


def kernel_words(text: str) -> Iterator[str]:
    """The words of a kernel command line; double quotes keep blanks together, as in the kernel."""
    word, quoted = "", False
    for char in text + " ":
        if char == '"':
            quoted = not quoted
        if char.isspace() and not quoted:
            if word:
                yield word
            word = ""
        else:
            word += char
    if word.strip():
        yield word.strip()  # a quotation that does not end


def _name(word: str) -> str:
    return word.partition("=")[0]
