"""Editing pictures: other starts for the sampling, denoisers that wrap another one, and mixtures of noises and prompts.

For example:

    picture = px.edit.image_to_image(params, photo, "a cat", px.key(0), strength=0.6)
    picture = px.edit.inpaint(params, photo, mask, "a red circle", px.key(0))
"""

from ..picture import read_picture
from .canvas import outpaint, panorama
from .denoisers import masked, windows
from .inversion import invert
from .masks import latent_mask
from .noises import interpolate, slerp, variations
from .pictures import image_to_image, inpaint

__all__ = [
    "image_to_image",
    "inpaint",
    "interpolate",
    "invert",
    "latent_mask",
    "masked",
    "outpaint",
    "panorama",
    "read_picture",
    "slerp",
    "variations",
    "windows",
]
