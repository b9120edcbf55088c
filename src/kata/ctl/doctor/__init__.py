"""What is left of sandboxes that were killed, and what is wrong with those that live: `kata doctor` prints and repairs.

`examine` is the door. A look finds one kind of thing and changes nothing; its repair is the function by which any other
command would have cleared it up. Living sandboxes, and what is not surely ours, are never touched.
"""
