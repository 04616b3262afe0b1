"""The history checker: which isolation levels a recorded history of transactions contradicts, and how.

Read ``levels.py`` (names), ``history.py`` (ops to transactions), ``evidence.py``, ``lists.py`` and ``registers.py`` (what reads
prove), ``graph.py``, ``shapes.py`` and ``cycles.py`` (contradictions), ``verdict.py`` (the result), ``files.py`` (recordings).
Knows nothing of databases and of the rest of nodoubt: it judges what was seen from outside.
"""

from nodoubt.judge.levels import Level
from nodoubt.judge.verdict import Anomaly, Verdict, judge

__all__ = ["Anomaly", "Level", "Verdict", "judge"]
