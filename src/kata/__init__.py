"""Kata Containers in Python. Rooms are the sub-packages; see docs/architecture.md for who may import whom."""
