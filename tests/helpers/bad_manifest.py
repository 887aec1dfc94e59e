"""Tables of a manifest that are wrong, each with what its error says."""

from __future__ import annotations

RIGHT = {
    "name": "alpha-512",
    "id": "owner/name",
    "kind": "pipeline",
    "family": "alpha",
    "side": 512,
    "scale": 1.0,
    "steps": 20,
    "guidance": 4.5,
    "tokens": 120,
    "solver": "dpmpp_2m",
    "licence": "openrail++",
    "licence_checked": True,
}

# what is changed or, where it is None, taken out; and what the sentence says
WRONG: list[tuple[dict, str]] = [
    *(({name: None}, f"it must say {name}") for name in RIGHT),
    ({"sizes": [1]}, r"unknown field 'sizes' = \[1\] \(nearest: 'side'\)"),
    ({"_note": "x"}, "unknown field '_note'"),
    ({"name": "Alpha 512"}, "name must be a string of a-z, 0-9 and hyphens, got 'Alpha 512'"),
    ({"name": 512}, "name must be a string of"),
    ({"id": "https://hub/owner/name"}, "id must be a string owner/name, got"),
    ({"id": "../name"}, "id must be"),
    ({"kind": "gguf"}, "kind must be 'pipeline' or 'transformer' or 'pth'"),
    ({"family": "beta"}, "family must be 'alpha' or 'sigma', got 'beta'"),
    ({"side": 0}, r"side must be a whole number within 16 … 16384, got 0"),
    ({"side": 512.0}, "side must be a whole number"),
    ({"scale": 0.0}, "scale must be a finite number within"),
    ({"steps": True}, "steps must be a whole number"),
    ({"guidance": 0.0}, "guidance must be a finite number of at least 1, got 0.0"),
    ({"guidance": float("nan")}, "guidance must be a finite number"),
    ({"tokens": -1}, "tokens must be"),
    ({"solver": "dpm++"}, "alpha-512 must say a solver of px.solvers, got 'dpm\\+\\+'"),
    ({"layers": 0}, "layers must be"),
    ({"conditions": 1}, "conditions must be True or False, got 1"),
    ({"times": [400.0]}, "alpha-512 must say as many times as steps = 20, got 1"),
    ({"times": [1000.0], "steps": 1}, "times must be"),
    ({"files": ["a.pth"]}, "must say files where its kind isn't pipeline or transformer, and only there"),
    ({"kind": "pth", "pipeline": "owner/name"}, "must say files where"),
    ({"kind": "pth", "pipeline": "owner/name", "files": ["../a.pth"]}, "files must be"),
    ({"kind": "transformer"}, "must say pipeline where its kind isn't pipeline, and only there"),
    ({"kind": "transformer", "pipeline": "owner/name", "revision": "v2"}, "may not say revision, as `load` takes"),
    ({"pipeline": "owner/name"}, "must say pipeline where"),
    ({"scheduler": "owner/name"}, "may say scheduler only where its kind is adapter"),
]
