"""What CNTK's trainers and learners hold, and what of it CNTK does not tell.

Below everything else of a run: no module here imports one of `readers`, `checkpoints`, `evaluation`
or `engine`.
"""
