"""One file a tool-call format; the table that lists them is `tools/table.py`."""
