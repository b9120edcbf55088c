"""Fuzzing: whatever reads bytes of strangers, fed with bytes of none. `targets` says how, CONTRIBUTING.md how to run."""
