"""Cgroups of the host: where a sandbox's processes are, and what they may use there.

The door is `sandbox.SandboxGroups`, `sandbox.clear` for a sandbox whose process is gone, and `sweep` for one of which
nothing else is left. `path`, `mark`, `limits` and `properties` are pure, `hierarchy` finds the host's trees, `group`
drives one cgroup in all of them, `scope` is one that systemd keeps, to whom `systemd` speaks. docs/resources.md tells
the rules.
"""
