"""Cgroups of the host: where a sandbox's processes are, and what they may use there.

The door is `sandbox.SandboxGroups`, and `sandbox.clear` for a sandbox whose process is gone. `path` and `limits` are
pure, `hierarchy` finds the host's trees, `group` drives one cgroup in all of them. docs/resources.md tells the rules.
"""
