"""Fuzzing: what reads bytes of strangers gets bytes of nobody. `targets` says how, CONTRIBUTING.md how to run it."""
