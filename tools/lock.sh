#!/bin/sh
# Writes requirements/{run,dev,fuzz,build}.txt: the exact versions and hashes that set-up installs.
# `make lock` calls it; tests/linters/test_locks.py compares the result with pyproject.toml.
set -eu
cd "$(dirname "$0")/.."

# No index, no find-links: where packages come from is up to the machine, the hashes say what they must be.
# uv writes the hashes of every file of a release, so one resolution serves x86_64 and aarch64.
lock() {
    output=$1
    shift
    .venv/bin/uv pip compile --quiet --upgrade --generate-hashes \
        --python-version 3.11 --python-platform linux \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
        --output-file "requirements/$output" "$@"
}

lock run.txt pyproject.toml
# The development environment runs the same versions as users do.
lock dev.txt --group dev --constraint requirements/run.txt pyproject.toml
lock fuzz.txt --group fuzz
lock build.txt requirements/build.in
