"""Formats of files, which hold named arrays."""
