"""Where this clone is, for tests that read its files or start processes of their own."""
import os

SUPPORT = os.path.dirname(os.path.abspath(__file__))
CLONE = os.path.dirname(os.path.dirname(SUPPORT))
PYTHONPATH = os.pathsep.join([SUPPORT, CLONE])
