"""The images of a release: which are asked for, the model that draws them, and how they get to disk.

Guarantees nothing by itself: all of it is post-processing of what was released. May import torch and the
families, never the engine or a mechanism.
"""
