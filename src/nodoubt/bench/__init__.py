"""The speed of nodoubt beside its peers, as ratios within one run: ``nodoubt bench``.

Absolute figures belong to a machine and an hour; a ratio of two contestants that took turns on the same servers does
not. In reading order: ``work`` (what is done and how it is checked), ``lines`` (bare connections), ``grounds`` (the
servers), ``contestants`` and ``sqlalchemy_peer`` (who does it), ``runner`` (the race), ``settling`` (recovery),
``machine``, ``summary``, ``report``, ``plot``.

This part is a user of nodoubt: it calls what users call. The peers beside it speak to the drivers themselves.
"""
