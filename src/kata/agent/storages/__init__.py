"""Storages in the guest: one module a driver says what is to be mounted, `table` mounts and counts.

`table.StorageTable` is the way in.
"""
