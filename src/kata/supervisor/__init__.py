"""The process that holds one sandbox for the `kata` command: to it what the shim is to containerd.

`launch.launch` forks it, `service.ControlService` is what it serves on `<state>/sbs/<id>/control.sock`, and
`client.Control` is how any later command reaches it. It ends when its container has ended.
"""
