"""Pages that go out with a model or with images: what they are, what they promise, how to load them.

Guarantees nothing by itself: a card is written from certificate and recipe. Never imports torch.
"""
