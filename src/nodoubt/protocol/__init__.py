"""The pure protocol: facts go in, orders come out.

No socket, clock, thread or random number inside, and no import from the rest of the package but the errors. Reading order:
``ids``, ``states``, ``messages``, ``transaction``, ``verdicts``.
"""
