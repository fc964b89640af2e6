"""One training step of many autoencoders at once, in Triton.

`reference` says what every operation means. Nothing here adds with float atomics, and nothing
reduces across members: a member's bits are the same whoever shares the table with it.
"""
