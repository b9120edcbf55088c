"""The middle of the runtime: sandboxes, containers and processes, with no knowledge of any front end.

The doors are `sandbox.Sandbox` (one VM and what runs in it) and `store.Store` (what every later command finds
on disk). The `kata` command stands on it through `kata.supervisor`; the containerd shim comes onto the same core.
"""
