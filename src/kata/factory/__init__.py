"""Virtual machines from templates: booted once, saved, and gone on from by every sandbox. `start.py` is the door."""
