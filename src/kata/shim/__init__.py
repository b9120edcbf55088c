"""The front door for containerd: `containerd-shim-kata-v2`, one serving process a pod.

`__main__` reads the command line; `start` binds a socket and forks, `serve` is the process that stays, `delete` clears
up after one that is gone. Requests come in at `service`, which asks `pod`; the sandbox core does the work. Nothing
here knows QEMU, and nothing else imports this room.
"""
