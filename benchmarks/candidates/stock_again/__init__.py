"""Stock Django once more, in a process and a database of its own.

What its ratio to the floor is away from 1.00 is chance: the least difference that says anything.
"""
