"""The guest's first process: ttrpc service, devices, storages, container life cycle by crun, stdio, network.

Runs in the guest only; the host never imports it. Every import is paid for by the guest's boot and memory.
"""
