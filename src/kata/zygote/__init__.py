"""A process that has loaded everything already and forks what would have to load it: milliseconds, and shared memory.

`ask.ask` is the door for a program that could be forked instead of loading itself; `launch.launch` starts a zygote for
the next one; `serve.serve` is the zygote. One serves one context (`context`): the user, namespaces, limits and code
that a child would have had if its asker had gone on by itself. Whatever is wrong with it (none there, dead, stuck, old
code), the asker goes on by itself, as if there were no such thing.
"""
