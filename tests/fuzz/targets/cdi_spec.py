"""Specifications of devices (CDI) in the guest: a file of an image, or of a container's driver."""

from __future__ import annotations

import json

from kata.agent.devices.cdi_spec import MAX_ID, MAX_MAJOR, CdiSpecError, parse_spec

SPEC = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/gpu",
    "devices": [
        {
            "name": "0",
            "containerEdits": {
                "deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b", "type": "c", "major": 1, "minor": 2}],
                "env": ["A=b"],
                "additionalGids": [5],
            },
        }
    ],
    "containerEdits": {
        "mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["ro"]}],
        "hooks": [{"hookName": "createContainer", "path": "/bin/a", "args": ["a"], "timeout": 1}],
    },
}
SEEDS = (json.dumps(SPEC).encode(),)
TOKENS = (
    b"null",
    b"true",
    b"-1",
    b"[]",
    b"{}",
    b"1e3",
    b'"\\ud800"',
    b'"\\u0000"',
    b"..",
    b'"name": ',
    b'"annotations": {}',
)


def target(data: bytes) -> None:
    """What is accepted can become part of a container's specification as it is."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        spec = parse_spec(content, "/etc/cdi/a.json")
    except CdiSpecError:
        return
    for edits in (spec.common, *spec.devices.values()):
        for node in edits.nodes:
            assert node.path.startswith("/")
            assert ".." not in node.path.split("/")
            assert node.major <= MAX_MAJOR
        assert all(0 <= gid <= MAX_ID for gid in edits.gids)
        json.dumps([edits.env, edits.mounts, edits.hooks], ensure_ascii=False).encode()
