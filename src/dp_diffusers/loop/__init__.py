"""What the loop of `training.py` is made of: rows and their randomness, encoded images, optimiser, averages.

Guarantees nothing by itself: its files do. May import torch, the engine and the families, never the ledger
or the accountant.
"""
