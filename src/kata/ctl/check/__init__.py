"""What this host can and cannot do for containers in virtual machines, as values: `kata check` prints them.

`findings` is the door. A check looks at one thing, never raises, and says what to do about what it found.
"""
