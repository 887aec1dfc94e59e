"""How much memory is free, from the files in which Linux says so."""

from __future__ import annotations

import pytest

from pixart_fn.process import limits

MIB = 2**20


@pytest.fixture
def system(tmp_path):
    """Write the files of a system: `system({"proc/meminfo": "…"})` gives its root."""

    def write(files):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return tmp_path

    return write


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8192 kB\n"}


def group(version, folder, limit, usage, pages=(0, 0)):
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    total = "" if version == 2 else "total_"
    root = "sys/fs/cgroup" if version == 2 else "sys/fs/cgroup/memory"
    stat = f"anon 7\n{total}inactive_file {pages[0]}\n{total}active_file {pages[1]}\n"
    return {
        f"{root}{folder}/{names[0]}": f"{limit}\n",
        f"{root}{folder}/{names[1]}": f"{usage}\n",
        f"{root}{folder}/memory.stat": stat,
    }


def test_without_a_group_it_is_what_the_system_has(system):
    assert limits.free(system(MEMINFO)) == 8 * MIB


def test_nobody_knows(tmp_path):
    assert limits.free(tmp_path) is None and limits.resident(tmp_path) == 0


@pytest.mark.parametrize(("version", "line"), [(2, "0::/a/b\n"), (1, "8:pids:/\n4:memory:/a/b\n0::/\n")])
def test_the_narrowest_group_counts_and_pages_of_files_are_free(system, version, line):
    files = {**MEMINFO, "proc/self/cgroup": line}
    files |= group(version, "/a", 6 * MIB, 3 * MIB, (MIB, MIB))
    files |= group(version, "/a/b", 9 * MIB, 2 * MIB)
    assert limits.free(system(files)) == 5 * MIB
    assert limits.free(system({**files, **group(version, "/a/b", 4 * MIB, 3 * MIB)})) == MIB
    assert limits.free(system({**files, **group(version, "/a/b", 4 * MIB, 5 * MIB)})) == 0


@pytest.mark.parametrize(("version", "limit"), [(2, "max"), (1, 2**63 - 4096)])
def test_a_group_without_a_limit_leaves_all(system, version, limit):
    line = "0::/a\n" if version == 2 else "4:memory:/a\n"
    files = {**MEMINFO, "proc/self/cgroup": line, **group(version, "/a", limit, 3 * MIB)}
    assert limits.free(system(files)) == 8 * MIB


def test_in_a_container_the_group_is_mounted_as_the_root(system):
    files = {**MEMINFO, "proc/self/cgroup": "0::/not/seen/here\n", **group(2, "", 4 * MIB, MIB)}
    assert limits.free(system(files)) == 3 * MIB


def test_what_is_resident_is_without_pages_of_files(system):
    root = system({"proc/self/status": "VmRSS:\t 900 kB\nRssAnon:\t     512 kB\nRssFile:\t 388 kB\n"})
    assert limits.resident(root) == 512 * 1024


def test_the_pages_of_files_are_those_with_a_file(system):
    root = system({"proc/self/maps": "1000-2000 r--p 00000000 00:00 0 \n3000-5000 rw-p 00000000 fe:00 58 /a b\n"})
    assert limits.file_pages(root) == [(0x3000, 0x4FFF)]


def test_this_system_says_something():
    if (limits.ROOT / "proc/meminfo").exists():
        assert limits.free() > MIB and limits.resident() > MIB
