"""Questions that a run asks of its private images once, beside its steps: each is paid for before its noise.

Guarantees nothing by itself: the mechanisms behind the questions are in `mechanisms/`. May import those,
never the engine.
"""
