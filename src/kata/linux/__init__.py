"""The kernel, without policy: thin wrappers with the kernel's own names. Imports nothing of ours but errors."""
