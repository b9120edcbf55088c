"""Unit tests of the host's cgroups."""
