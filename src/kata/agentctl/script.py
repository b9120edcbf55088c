"""Lines of commands: from a file, from -c, or typed at a prompt.

Called by `__main__`. A line is a request as on the command line, or one of these:

    echo TEXT…              print it
    set NAME VALUE          $NAME and ${NAME} are VALUE from now on
    sleep SECONDS
    repeat COUNT COMMAND…   run the command so often; $n is which time it is, from 1
    expect CODE COMMAND…    the request must fail with that code (NOT_FOUND, …)
    expect FIELD=VALUE COMMAND…   the request must succeed and that field of its reply be VALUE
    list, help [REQUEST]
    quit                    end here, successfully

Words are separated by blanks; single quotes keep everything as it is, double quotes keep blanks and let $NAME
through, a backslash takes the next character as it is, # begins a comment. A JSON document needs no quotes.
Never add conditions or loops over data: that is what a real language with `kata.protocol` is for.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

from kata.agentctl import output
from kata.agentctl.errors import ExpectationError, UsageError
from kata.agentctl.helptext import show_list, show_request
from kata.errors import KataError
from kata.protocol.status import Code, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.message import Message

    from kata.agentctl.session import Session

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
JSON_WORD = re.compile(r"(?:[\w.]+=)?(?:json://)?(?=[{\[])")
REPEAT_LIMIT = 1_000_000
LONGEST_SLEEP = 86400.0


class Quit(Exception):  # noqa: N818 - not an error
    """`quit` was said."""


class Script:
    """Runs lines in one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._built_in: dict[str, Callable[[str], None]] = {
            "echo": self._echo,
            "set": self._set,
            "sleep": self._sleep,
            "repeat": self._repeat,
            "expect": self._expect,
            "list": self._list,
            "help": self._help,
            "quit": self._quit,
        }

    def run(self, lines: Iterable[str], source: str, *, ignore_errors: bool = False) -> int:
        """Run lines until one fails (with `ignore_errors`: all): 0, or the exit code of the last failure."""
        code = 0
        for number, line in enumerate(lines, 1):
            try:
                self.line(line)
            except Quit:
                break
            except (KataError, RpcError) as error:
                code = output.failure(error, f"{source}:{number}: " if source else "")
                if not ignore_errors:
                    break
        return code

    def line(self, line: str) -> None:
        """Run one line. Raises UsageError, ExpectationError, RpcError, Quit."""
        first, rest = _first(line)
        if not first or first.startswith("#"):
            return
        command = self._built_in.get(first.lower())
        if command is not None:
            command(rest)
        else:
            self._session.show(self._request(line))

    def _request(self, line: str) -> Message:
        return self._session.request(split(line, self._session.variables))

    def _echo(self, rest: str) -> None:
        print(" ".join(split(rest, self._session.variables)), flush=True)

    def _set(self, rest: str) -> None:
        words = split(rest, self._session.variables)
        if len(words) != 2 or not NAME.fullmatch(words[0]):
            raise UsageError("set needs a name and a value", hint="set NAME VALUE")
        self._session.variables[words[0]] = words[1]

    def _sleep(self, rest: str) -> None:
        time.sleep(_number(split(rest, self._session.variables), "sleep", LONGEST_SLEEP))

    def _repeat(self, rest: str) -> None:
        count, command = _first(rest)
        if not command:
            raise UsageError("repeat needs a count and a command", hint="repeat 10 Check")
        times = int(_number(split(count, self._session.variables), "repeat", REPEAT_LIMIT))
        for turn in range(times):
            self._session.variables["n"] = str(turn + 1)
            self.line(command)

    def _expect(self, rest: str) -> None:
        wanted, command = _first(rest)
        if not command:
            raise UsageError("expect needs an outcome and a request", hint="expect NOT_FOUND WaitProcess exec_id=x")
        [wanted] = split(wanted, self._session.variables) or [""]
        if "=" in wanted:
            reply = self._request(command)
            _check_field(reply, wanted)
            self._session.show(reply)
        else:
            self._expect_code(wanted.upper(), command)

    def _expect_code(self, wanted: str, command: str) -> None:
        if wanted not in Code.__members__:
            raise UsageError(f"{wanted} is no code", hint=", ".join(Code.__members__))
        try:
            reply = self._request(command)
        except RpcError as error:
            if error.code.name == wanted:
                return
            raise ExpectationError(
                f"{wanted} was expected, it was {error.code.name}", detail=output.printable(error.message)
            ) from error
        if wanted != Code.OK.name:
            raise ExpectationError(f"{wanted} was expected, the request succeeded")
        self._session.show(reply)

    def _list(self, rest: str) -> None:
        show_list()

    def _help(self, rest: str) -> None:
        words = split(rest, self._session.variables)
        if words:
            show_request(words[0])
        else:
            print(HELP)

    def _quit(self, rest: str) -> None:
        raise Quit


HELP = (__doc__ or "").partition("Called by `__main__`. ")[2].partition("\nNever")[0]
"""What can be in a script, for people."""


def split(line: str, variables: dict[str, str]) -> list[str]:
    """The words of a line. Raises UsageError for an open quote or an unknown variable."""
    return list(_words(line, variables))


def _words(line: str, variables: dict[str, str]) -> Iterator[str]:
    position = 0
    while position < len(line):
        if line[position].isspace():
            position += 1
        elif line[position] == "#":
            return
        else:
            word, position = _json_word(line, position) or _word(line, position, variables)
            yield word


def _json_word(line: str, start: int) -> tuple[str, int] | None:
    """A word that is, or ends in, a JSON document: nothing in it is special."""
    match = JSON_WORD.match(line, start)
    if match is None:
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(line, match.end())
    except ValueError:
        return None
    return (line[start:end], end) if line[end : end + 1].strip() == "" else None


def _word(line: str, start: int, variables: dict[str, str]) -> tuple[str, int]:
    """The word at `start` without its quotes, and where it ends."""
    word, quote, position = "", "", start
    while position < len(line):
        char = line[position]
        if quote and char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char.isspace():
            break
        elif char == "\\" and quote != "'":
            position += 1
            word += line[position : position + 1]
        elif char == "$" and quote != "'":
            value, position = _variable(line, position, variables)
            word += value
            continue
        else:
            word += char
        position += 1
    if quote:
        raise UsageError(f"a {quote} is not closed", hint="quote it, or put a backslash before it")
    return word, position


def _variable(line: str, start: int, variables: dict[str, str]) -> tuple[str, int]:
    match = VARIABLE.match(line, start)
    if match is None:
        return "$", start + 1
    name = match[1] or match[2]
    if name not in variables:
        raise UsageError(f"${name} is not set", hint=f"set {name} VALUE, or single quotes to keep the text")
    return variables[name], match.end()


def _first(line: str) -> tuple[str, str]:
    parts = line.strip().split(None, 1)
    return (parts[0] if parts else "", parts[1] if len(parts) > 1 else "")


def _number(words: list[str], what: str, limit: float) -> float:
    try:
        [text] = words
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= limit:
        raise UsageError(f"{what} needs a number from 0 to {limit:.0f}")
    return number


def _check_field(reply: Message, wanted: str) -> None:
    """Raise ExpectationError unless the field is as wanted; bytes are compared as text."""
    path, _, value = wanted.partition("=")
    found: object = reply
    for name in path.split("."):
        if name not in getattr(getattr(found, "DESCRIPTOR", None), "fields_by_name", ()):
            raise UsageError(f"the reply has no field {path}", hint=f"it is: {output.to_json(reply)}")
        found = getattr(found, name)
    text = output.value_text(found)
    if text != value:
        raise ExpectationError(f"{path}={value} was expected, it is {output.printable(text)!r}")
