"""What Params, Configs and leaves that are still stored look like, and that they leave no file open."""

from __future__ import annotations

import dataclasses
import gc
import mmap
import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from helpers.pipelines import CONFIGS, arrays, shard, weights_file

from pixart_fn import checkpoint, t5, transformer, tree, vae
from pixart_fn.backend import stream
from pixart_fn.files import safetensors
from pixart_fn.params import Configs, Params


def lines(shown: str, width: int = 120) -> int:
    """How many lines it takes in a terminal."""
    return sum(len(textwrap.wrap(line, width)) for line in shown.splitlines())


def test_repr_of_a_configuration_fits_ten_lines():
    scheduler = {"_class_name": "DPMSolverMultistepScheduler"} | {f"field_{i}": [0.5] * 9 for i in range(30)}
    config = Configs(t5.Config(), transformer.Config(), vae.Config(), scheduler)
    assert lines(repr(config)) <= 10
    for part in ("PixArtAlphaPipeline", "DPMSolverMultistepScheduler", "num_layers=24", "num_layers=28", "0.18215"):
        assert part in repr(config)
    assert "vae=None" in repr(dataclasses.replace(config, vae=None))


def test_repr_of_stored_leaves_is_a_line(pipeline):
    shard(pipeline)
    params = checkpoint.load(pipeline, stream=True)
    leaf = params.text_encoder["shared"]["weight"]
    assert repr(leaf) == "Stored(F32 (32, 16) in model-00001-of-00002.safetensors)"
    assert repr(stream.quantize(leaf)) == "Quantized(int8 (32, 16))"
    assert lines(repr(params)) <= 2
    assert repr(params.replace(transformer={"a": object()})).startswith("Params(PixArtAlphaPipeline: text_encoder=")


def test_params_is_a_tree_of_its_models(pipeline):
    params = checkpoint.load(pipeline, vae=None)
    assert Params.TREES == ("text_encoder", "transformer", "vae")
    expected = {f"{name}.{key}" for name in CONFIGS if name != "vae" for key in arrays(name)}
    assert {name for name, _ in tree.items(params)} == expected
    doubled = tree.map(lambda leaf: leaf * 2, params)
    assert isinstance(doubled, Params) and doubled.vae is None and doubled.config is params.config
    key = "proj_out.bias"
    found = dict(tree.items(doubled.transformer))[key].asnumpy()
    np.testing.assert_array_equal(found, 2 * arrays("transformer")[key])


def open_files(folder: Path) -> list[str]:
    """The files of a folder that this process has open or mapped."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except OSError:  # the one of the listing itself
            continue
    links += [line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()]
    return [link for link in links if link.startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists a process's files so")
def test_files_are_closed_when_the_last_tensor_goes(pipeline, monkeypatch):
    monkeypatch.setattr(safetensors, "MAPPED", 0)
    params = checkpoint.load(pipeline, stream=True)
    leaf = params.text_encoder["shared"]["weight"]
    assert open_files(pipeline)
    del params
    gc.collect()
    assert {Path(name).name for name in open_files(pipeline)} == {"model.safetensors"}
    leaf.prefetch()
    values = leaf.read()
    del leaf
    gc.collect()
    np.testing.assert_array_equal(values, arrays("text_encoder")["shared.weight"])  # a view keeps the mapping
    del values
    gc.collect()
    assert not open_files(pipeline)


def test_loading_warns_of_no_open_file(pipeline):
    """In Python's development mode, which shows what a module forgets to close."""
    code = """
        import sys
        from pathlib import Path
        from pixart_fn import checkpoint
        from pixart_fn.files import safetensors
        for stream in (True, False):
            params = checkpoint.load(sys.argv[1], stream=stream)
            checkpoint.save(params, sys.argv[1] + "-copy")
            del params
        for name in ("cut", "empty"):
            try:
                safetensors.open_file(Path(sys.argv[1]) / name)
            except ValueError:
                pass
    """
    (pipeline / "cut").write_bytes(weights_file(pipeline, "vae").read_bytes()[:-1])
    (pipeline / "empty").write_bytes(b"")
    command = [sys.executable, "-W", "error::ResourceWarning", "-X", "dev", "-c", textwrap.dedent(code), str(pipeline)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr


@pytest.mark.parametrize("least", [0, safetensors.MAPPED])
def test_prefetch_reads_the_file_that_is_mapped_though_another_took_its_name(tmp_path, monkeypatch, least):
    monkeypatch.setattr(safetensors, "MAPPED", least)
    file = tmp_path / "x.safetensors"
    value = np.arange(6, dtype=np.float32)
    safetensors.write_file(file, {"a": value}, {"a": "F32"})
    leaf = safetensors.open_file(file)["a"]
    file.unlink()
    leaf.prefetch()
    leaf.release()
    np.testing.assert_array_equal(leaf.read(), value)


def test_release_lets_go_of_whole_pages_of_its_own_alone(tmp_path, monkeypatch):
    """A tensor beside it may have been changed in memory, which the file doesn't know."""
    monkeypatch.setattr(safetensors, "MAPPED", 0)
    small, large = np.arange(10, dtype=np.float32), np.ones(3 * mmap.PAGESIZE // 4, np.float32)
    file = tmp_path / "x.safetensors"
    leaves = {"before": small, "large": large, "after": small}
    safetensors.write_file(file, leaves, dict.fromkeys(leaves, "F32"))
    stored = safetensors.open_file(file)
    for leaf in stored.values():
        leaf.read()[...] = 7
    stored["large"].release()
    for name in ("before", "after"):
        np.testing.assert_array_equal(stored[name].read(), 7)
    assert stored["large"].read()[mmap.PAGESIZE // 4] == 1  # given back, and read again


def test_a_bfloat16_tensor_is_read_without_numpys_bfloat16():
    """Under NumPy 2, MindSpore 2.10 refuses to give one."""
    asked = []

    def refuse():
        raise TypeError("The Numpy bfloat16 data type is not supported now")

    def widened():
        asked.append("float")
        return types.SimpleNamespace(asnumpy=lambda: np.ones(2, np.float32))

    leaf = types.SimpleNamespace(dtype="BFloat16", asnumpy=refuse, float=widened)
    np.testing.assert_array_equal(safetensors.array(leaf), np.ones(2, np.float32))
    assert asked == ["float"]
