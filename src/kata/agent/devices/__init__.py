"""Devices in the guest: one module a device type, one batch that changes the specification.

`batch` is the way in (adapt_devices); `hotplug` finds devices for everybody else. Kept free of imports: the errors
below are imported by modules that these import.
"""
