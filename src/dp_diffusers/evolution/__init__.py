"""Private Evolution: images of a public model, chosen by charged votes and varied; nothing is trained.

Guarantees nothing by itself: its votes are those of `mechanisms/evolution.py`. May import that, never the
engine.
Source: Lin et al. (2024).
"""
