"""Virtual machines. `machine.py` is the door, `registry.py` finds a driver by name, `qemu/` is the first driver."""
