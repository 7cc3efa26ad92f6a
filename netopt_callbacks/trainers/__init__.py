"""What CNTK's trainers and learners hold, and what of it CNTK does not tell.

Below everything else of a run: no module here knows of optimizations that are due, of checkpoints
or of held-out data.
"""
