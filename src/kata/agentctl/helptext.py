"""What there is to ask for, as text: the list of requests, one request in full, examples.

Called by `__main__` and `script`. Everything about requests comes from the descriptors.
"""

from __future__ import annotations

from kata.agentctl import rpcs

EXAMPLES = """\
An agent on this host (see docs/agent.md), and one request to it:
  kata-agent --server unix:///run/agent.sock --no-device-rules &
  kata-agent-ctl --server-address unix:///run/agent.sock GetGuestDetails mem_block_size=true

The agent of a running sandbox:
  kata run -d --name web busybox sleep 1000
  kata-agent-ctl --sandbox web ListInterfaces
  kata-agent-ctl --sandbox web --json StatsContainer cid=$(kata ps --json | jq -r .id)

A container's life from its bundle, ids filled in:
  kata-agent-ctl connect --server-address unix:///run/agent.sock --bundle-dir /tmp/bundle \\
    -c CreateSandbox -c CreateContainer -c StartContainer -c WaitProcess -c ReadStdout -c RemoveContainer

A request as one JSON document, and one value out of a file:
  kata-agent-ctl --sandbox web CreateSandbox 'json://{"sandbox_id": "sb", "dns": ["nameserver 192.0.2.1"]}'
  kata-agent-ctl --sandbox web CreateContainer cid=box spec=file:///tmp/bundle/config.json
  kata-agent-ctl --sandbox web CopyFile path=/run/kata-containers/shared/containers/x file_size=3 \\
    file_mode=0o100644 dir_mode=0o755 uid=0 gid=0 offset=0 data=@/tmp/three-bytes"""


def show_list() -> None:
    """Print every request with its fields."""
    methods = rpcs.all_methods()
    width = max(len(found.name) for found in methods)
    for found in methods:
        print(f"{found.name.ljust(width)}  {rpcs.summary(found)}".rstrip())


def show_request(name: str) -> None:
    """Print one request: its fields and what it answers. Raises UsageError for an unknown one."""
    found = rpcs.find(name)
    print(f"{found.name}  ({found.service}/{found.name})")
    short = {full: brief for brief, full in rpcs.SHORT.items()}
    _show_rows("request", [_named(row, short) for row in rpcs.rows(rpcs.descriptor(found.request))])
    _show_rows("reply", list(rpcs.rows(rpcs.descriptor(found.response))))
    if found.name in rpcs.WAITING:
        print("\nIt waits for as long as it takes, unless --timeout says otherwise.")


def _named(row: rpcs.Row, short: dict[str, str]) -> rpcs.Row:
    brief = short.get(row.path)
    return row._replace(path=f"{row.path} ({brief})") if brief else row


def _show_rows(title: str, rows: list[rpcs.Row]) -> None:
    print(f"\n{title}:" if rows else f"\n{title}: nothing in it")
    width = max((len(row.path) for row in rows), default=0)
    for row in rows:
        print(f"  {row.path.ljust(width)}  {row.kind}")
