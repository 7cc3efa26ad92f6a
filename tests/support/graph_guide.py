"""The examples of docs/writing_an_optimization.md."""
import os
import re

from paths import CLONE

GUIDE = os.path.join(CLONE, 'docs', 'writing_an_optimization.md')


def snippets(*words):
    """Returns the examples of the guide that hold one of the words."""
    with open(GUIDE) as file:
        found = re.findall(r'```python\n(.*?)```', file.read(), re.DOTALL)
    return [snippet for snippet in found if any(word in snippet for word in words)]
