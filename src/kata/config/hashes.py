"""Checks the hashes that a pod's annotations give for the files its VM boots from."""

from __future__ import annotations

import os

from kata.config.finding import ANNOTATION, Findings
from kata.config.model import Draft
from kata.config.setting import AnySetting
from kata.config.settings import Hypervisor

SUFFIX = "_hash"
CHUNK = 1024 * 1024


def check(draft: Draft, findings: Findings) -> None:
    """Compare each file that has a hash with it. Reading a file of 20 MB takes some 50 ms; without hashes, nothing."""
    for setting in Hypervisor.settings():
        if setting.key.endswith(SUFFIX) and (wanted := draft.get(setting)):
            path = draft.get(getattr(Hypervisor, setting.key.removesuffix(SUFFIX)))
            _compare(draft, setting, path, wanted.lower(), findings)


def _compare(draft: Draft, setting: AnySetting, path: str, wanted: str, findings: Findings) -> None:
    name = draft.display(setting)
    try:
        found = sha512(path)
    except OSError as error:
        findings.error(name, f"{path or 'nothing'} cannot be read: {error.strerror}", where=ANNOTATION)
        return
    if found != wanted:
        findings.error(name, f"{path} has another SHA-512", f"it is {found}", ANNOTATION)


def sha512(path: str) -> str:
    """The hash of a regular file in hexadecimal. Raises OSError."""
    import hashlib  # only pods that ask for it pay

    digest = hashlib.sha512()
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
