"""Shipped helpers for tests of the project and of its plug-ins."""
