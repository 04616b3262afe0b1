"""Deterministic simulation: the unmodified engine on a virtual clock, network and disk, against simulated databases.

Read ``loop`` (time), ``store`` and ``server`` (what databases are made of), ``postgresql`` and ``mariadb`` (how they differ),
``network`` and ``driver`` (what lies between), ``process``, ``workload``, ``faults``, ``judge``, and ``run``, which puts one
history together. One seed is one history, byte for byte.
"""
