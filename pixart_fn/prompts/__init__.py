"""Prompts as values: their words, weights and sums, and the places in a picture that attend to each word."""

from .algebra import blend as blend
from .algebra import concatenate as concatenate
from .algebra import weighted as weighted
from .inside import attention as attention
from .inside import maps as maps
from .reading import Part as Part
from .reading import Word as Word
from .reading import parse as parse
from .reading import words as words
