"""`make bench`: what a container in a virtual machine costs, next to the same thing without one. See `__main__`."""
