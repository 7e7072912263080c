"""The last look at a release before it is certified: does anything private stand in it, word for word?

Guarantees nothing by itself; `scan` is the way in. Never imports torch.
"""
