"""The QEMU driver: a command line made from a `MachineSpec`, a QMP client, and the process they belong to."""
