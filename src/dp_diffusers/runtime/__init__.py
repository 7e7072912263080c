"""How a network runs where it runs: device, memory, the size of a pass, memory layout, compiled parts.

Guarantees that nothing here changes what a run costs in privacy. May import torch, the engine and the
families, never the ledger or the accountant.
"""
