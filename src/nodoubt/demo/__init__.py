"""The main job in ten seconds: a bank over several nodes, workers that are killed, and an account of every coin.

Reading order: ``bank`` (tables, transfers, the independent audit), ``plain`` (ordinary connections), ``killer`` (when and where
somebody dies), ``worker`` (a process that transfers), ``crew`` (starts, kills and replaces workers), ``view``, ``report``, and
``story``, which puts them together. Nothing of the library knows this package.
"""
