"""The parts of `raygan prepare`: what is read, how it is cut into shards, who makes them, and what is told at the end.

Light to import: no PyTorch, and Ray only where it is used.
"""
