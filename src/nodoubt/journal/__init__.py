"""The journal of one prepared branch, beside a SQLite database file.

Reading order: ``record`` (what is written, bytes only), ``files`` (how it gets to the disk and away again).
"""
