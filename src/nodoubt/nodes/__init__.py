"""Nodes: what the engine asks of a database (``contract``), and how each kind of database does it.

Reading order: ``world`` (what everybody may ask of the outside), ``contract`` (the order of calls), ``statements`` and ``guard``
(what a block may not do), ``pool``, then one file per dialect and one per driver.
"""
