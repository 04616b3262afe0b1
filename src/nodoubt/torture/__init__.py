"""Real servers under every fault that can be had, and a verdict on what they did.

Reading order: ``options``, ``plan`` (which faults, when and whose, from the seed), ``grounds`` (servers, disks and proxies),
``jobs`` (what the transactions do), ``gates`` (where their openings are struck), ``worker`` (a process that does it),
``record`` (what the workers saw), ``crew``, ``injector`` (carries the plan out), ``watch`` (what is in doubt), ``verdict`` (the
judge and the invariants), ``result``, ``page``, and ``story``, which puts them together.
Nothing of the library knows this package.
"""
