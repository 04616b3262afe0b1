"""One transaction over several databases that happens everywhere or nowhere."""

__version__ = "0.1.0"
