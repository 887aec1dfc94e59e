"""Formats of files: bytes ↔ named arrays."""
