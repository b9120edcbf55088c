"""The pod's network namespace, and how the guest gets to be in it."""
