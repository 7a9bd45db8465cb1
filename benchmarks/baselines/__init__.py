"""Adapt-then-distil without EDAD-fast: as it is usually written, and the best one can put together today.

From the package come the token shards, the vocabulary and the models (all of them the same as ours), never a
loss, a loader or a trainer.
"""
