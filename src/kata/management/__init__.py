"""A sandbox's management socket: HTTP for metrics, the packet filter, the policy, volumes, the debug console.

Served by the process that holds the sandbox, a shim or a supervisor; the door is `serve.serve`, and `client.Client` for
commands. Nobody needs it to run containers: it is loaded after the first one was created.
"""
