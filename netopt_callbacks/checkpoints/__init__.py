"""The files of a checkpoint: CNTK's pair, ours beside it, whole or named as damaged.

`engine.checkpoint` and `engine.phases` say when they are written and what is restored from them.
"""
