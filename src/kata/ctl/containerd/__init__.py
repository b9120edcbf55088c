"""Making containerd know our runtime, and forget it: `kata install containerd`.

`document` edits the text of its configuration, `shim` the name on its PATH, `install` does both to files.
"""
