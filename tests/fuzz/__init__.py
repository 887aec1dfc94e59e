"""Readers of files against damaged and hostile ones: `python -m tests.fuzz READER --minutes N --seed S`.

It uses hypothesis and mutations that know the formats, not atheris: that instruments Python code to find new paths,
but what these readers call is C++ (SentencePiece, Pillow, zlib, json), which its wheels can't instrument.
"""
