"""The teacher of a run: a charged classifier that gives labels to images, and chooses among them.

Guarantees nothing by itself: its one question is that of `mechanisms/teacher.py`. May import that, never
the engine.
"""
