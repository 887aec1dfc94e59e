"""The embedded checkpoint's models, data and training in PyTorch, for a GPU.

    python -m tests.reference.twin.make_pack --npm node_modules --out pack.npz  # needs the extra `train`
    cd tests/reference                                                        # the rest needs PyTorch alone
    python -m twin.train vae --pack pack.npz --out runs/twin --seconds 95
    python -m twin.train model --pack pack.npz --out runs/twin --seconds 285
    cd ../..
    python -m tests.reference.twin.export --pack pack.npz --weights runs/twin --out weights/emoji

`pack.npz` (32 MB) holds the pictures and the tokens of all captions, so that a machine without network needs that file
and this folder. Training draws pictures and captions on the GPU, a function of the seed and the step alone.
"""
