"""Vocabulary shared by every package: records, units, errors. Standard library and numpy only."""
