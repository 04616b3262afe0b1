"""Proof by enumeration: the production engine, run through every interleaving over small models of its databases.

Nothing of the protocol is written here a second time. Machine, performer, settler, purge, branches and pools are the ones of
production; only the databases, the network and the scheduler are models. Read `stepping` (a process, one call at a time),
`wire` (its nodes), `programs` (what it does), `databases` (what is true), `explorer`, `invariants`, `story`.
"""
