"""What `make_pack` wrote, on the device, and scenes painted from it."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

COLOUR_SETS, SETS = 9, 11
"""The sets before the first number have colours of their own, the others are drawn in one ink."""


def read(blob: bytes, has_colour: bool) -> np.ndarray:
    """One picture: uint8 (128, 128, 4), colours multiplied by the alpha; white where the file holds alpha alone."""
    image = Image.open(io.BytesIO(blob))
    if not has_colour:
        return np.repeat(np.asarray(image.convert("L"))[..., None], 4, -1)
    a = np.asarray(image.convert("RGBA"))
    return np.concatenate([(a[..., :3].astype(np.uint16) * a[..., 3:] // 255).astype(np.uint8), a[..., 3:]], -1)


class Pack:
    """Glyphs at three sizes, what each one shows, how well it stands out, and the pieces of captions.

    Args:
        file: the pack.npz.
        device: "cuda" or "cpu".
        limit: how many glyphs to read, drawn at random; None reads all.
    """

    def __init__(self, file: str, device: str, limit: int | None = None) -> None:
        z = np.load(file)
        every = len(z["concept"])
        rows = np.arange(every) if limit is None else np.sort(np.random.default_rng(0).permutation(every)[:limit])
        self.n, self.spiece = len(rows), z["spiece"].tobytes()
        self.mips = self.read_glyphs(z, rows, device)
        self.concept = torch.from_numpy(z["concept"][rows]).long().to(device)
        self.set = torch.from_numpy(z["set"][rows]).long().to(device)
        weight = torch.from_numpy(z["weight"]).to(device)[self.concept]
        self.weights = [torch.where(self.set == s, weight, 0) for s in range(SETS)]
        self.may_flip = torch.from_numpy(z["flip"]).to(device)
        self.held_out = torch.arange(len(self.may_flip), device=device) % 20 == 7
        self.colours = torch.from_numpy(z["colours"]).float().to(device) / 255
        self.paints = torch.from_numpy(z["paints"]).long().to(device)
        self.luma = self.colours @ torch.tensor([0.299, 0.587, 0.114], device=device)
        self.contrast = torch.cat([self.stands_out(x.float()) for x in self.mips[2].split(512)])
        self.table = torch.from_numpy(z["table"].astype(np.int64)).to(device)
        self.pieces = {
            name[2:]: torch.from_numpy(z[name].astype(np.int64)).to(device) for name in z.files if name.startswith("t_")
        }

    def read_glyphs(self, z: np.lib.npyio.NpzFile, rows: np.ndarray, device: str) -> list[Tensor]:
        """Glyphs and after them the outlines of shapes, (N, 4, S, S) for S = 128, 64, 32."""
        blob, at, sets = z["glyphs"].tobytes(), z["offsets"], z["set"]
        with ThreadPoolExecutor(16) as pool:
            read_row = pool.map(lambda i: read(blob[at[i] : at[i + 1]], sets[i] < COLOUR_SETS), rows)
            pictures = np.stack([*read_row, *(np.repeat(m[..., None], 4, -1) for m in z["outlines"])])
        dtype = torch.float32 if device == "cpu" else torch.float16
        mips = [torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).contiguous().to(dtype) / 255]
        for _ in range(2):
            mips.append(torch.cat([F.avg_pool2d(x.float(), 2).to(dtype) for x in mips[-1].split(1024)]))
        return mips

    def stands_out(self, x: Tensor) -> Tensor:
        """Mean difference in lightness between glyphs, (N, 4, S, S), and each colour: (N, 12)."""
        alpha = x[:, 3:]
        weights = torch.tensor([0.299, 0.587, 0.114], device=x.device)[:, None, None]
        lightness = (x[:, :3] * weights).sum(1, keepdim=True) / alpha.clamp(min=1e-3)
        difference = (lightness - self.luma[:, None, None]).abs() * alpha
        return difference.sum((2, 3)) / alpha.sum((2, 3)).clamp(min=1e-3)

    def unseen_grounds(self, concept: Tensor) -> Tensor:
        """Pairs of concept and colour (white apart) that training never draws: (n,) → (n, 11)."""
        return (7 * concept[:, None] + 3 * torch.arange(1, 12, device=concept.device)) % 10 == 0


def paint(pack: Pack, scenes, size: int = 128) -> Tensor:
    """Paint scenes: (n, 3, size, size) in [-1, 1]."""
    n, device = len(scenes.kind), pack.table.device
    picture = pack.colours[scenes.ground][:, :, None, None].expand(n, 3, 128, 128).clone()
    at = (torch.arange(128, device=device) + 0.5) / 128
    side = scenes.box[..., 2]
    mip = (side < 0.6).long() + (side < 0.3).long()
    for k in range(3):
        for level, source in enumerate(pack.mips):
            i = torch.nonzero((scenes.row[:, k] >= 0) & (mip[:, k] == level))[:, 0]
            if not len(i):
                continue
            x, y, s = (v[:, None] for v in scenes.box[i, k].unbind(1))
            u = (at - x) / s * 2 * torch.where(scenes.flip[i, k], -1.0, 1.0)[:, None]
            v = (at - y) / s * 2
            where = torch.stack([u[:, None, :].expand(-1, 128, -1), v[:, :, None].expand(-1, -1, 128)], -1)
            glyph = source[scenes.row[i, k]]
            glyph = F.grid_sample(glyph, where.to(glyph.dtype), align_corners=False).float()
            ink = scenes.ink[i, k]
            colour = torch.where((ink >= 0)[:, None], pack.colours[ink.clamp(min=0)], 1.0)
            picture[i] = picture[i] * (1 - glyph[:, 3:]) + glyph[:, :3] * colour[:, :, None, None]
    picture = picture * 2 - 1
    return picture if size == 128 else F.avg_pool2d(picture, 128 // size)
