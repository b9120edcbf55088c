"""What an id of a sandbox, container or process may be: they become names of folders and words of command lines.

Engines see to that themselves (containerd's are narrower); it is asked again where an id comes in. Only the rule here.
"""

from __future__ import annotations

import re

LONGEST = 128
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{LONGEST - 1}}}", re.ASCII)


def is_id(text: str) -> bool:
    """Whether it is one: letters, digits, `_`, `.` and `-`, none of these first. So never a path, nor an option."""
    return _ID.fullmatch(text) is not None
