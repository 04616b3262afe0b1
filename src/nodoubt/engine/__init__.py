"""The engine: carries the protocol's orders out on nodes, and settles what others left.

Reading order: ``worlds`` (clock, waiting, doing things at once), ``performer`` (orders into calls, answers into facts),
``work`` (one live transaction), ``settle`` (recovery), ``engine`` (all of it together), ``asynchronous`` and ``synchronous``
(the two public shells).
"""
