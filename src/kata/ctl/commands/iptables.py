"""`kata iptables`: the packet filter inside a sandbox's guest."""

from __future__ import annotations

import argparse
import sys

HELP = "show or replace the packet filter in a guest"
EPILOG = """\
examples:
  kata iptables get web
  kata iptables set web --v6 rules.txt
  kata iptables get web | sed s/8080/80/ | kata iptables set web

Rules are as iptables-save writes them. The guest's image needs the iptables programs."""


def configure(parser: argparse.ArgumentParser) -> None:
    """`get` and `set`."""
    from kata.ctl import sandboxes

    ways = parser.add_subparsers(dest="way", required=True, metavar="WAY")
    for name, text in (("get", "print the rules"), ("set", "replace the tables that the rules name")):
        way = ways.add_parser(name, help=text, description=text, allow_abbrev=False)
        sandboxes.add_argument(way)
        way.add_argument("--v6", action="store_true", help="the rules of IPv6")
        if name == "set":
            way.add_argument("file", metavar="FILE", nargs="?", default="-", help="rules; - is standard input")


def execute(args: argparse.Namespace) -> int:
    """One request; what the guest says goes to standard output."""
    from kata.ctl import files, sandboxes
    from kata.ctl.terminal import shown
    from kata.management import client

    path = "/ip6tables" if args.v6 else "/iptables"
    if args.way == "get":
        answer = client.request(sandboxes.running(args.sandbox), "GET", path)
    else:
        rules = files.read(args.file)
        answer = client.request(sandboxes.running(args.sandbox), "PUT", path, rules)
    with shown(sys.stdout.buffer) as output:
        output.write(answer)
    return 0
