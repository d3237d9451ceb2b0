# The counterpart of crates/kiln-store/examples/cache_bench.rs with the reference's own module.
import os
import sys
import time

from osbuild.util.fscache import FsCache, FsCacheInfo

PATH, OPERATION, COUNT, UNIQUE = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]


def store(cache, name):
    with cache.store(name) as path:
        with open(os.path.join(PATH, path, "file"), "w", encoding="utf8") as file:
            file.write("x")


def load(cache):
    with cache.load("a"):
        pass


def stage(cache):
    with cache.stage():
        pass


with FsCache("osbuild", PATH) as cache:
    cache.info = FsCacheInfo(maximum_size="unlimited")
    if not os.path.exists(os.path.join(PATH, "objects/a")):
        store(cache, "a")
    with open(os.path.join(PATH, "cache.size"), encoding="utf8") as text:
        size = int(text.read())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.buffer.read(1)
    started = time.perf_counter_ns()
    for number in range(COUNT):
        if OPERATION in ("load", "mixed"):
            load(cache)
        if OPERATION in ("stage", "mixed"):
            stage(cache)
        if OPERATION in ("store", "mixed"):
            store(cache, f"{UNIQUE}-{number}")
        if OPERATION == "prune":
            # It frees twice what it is asked for.
            cache._remove_lru(size // 4)
    took = time.perf_counter_ns() - started
sys.stdout.write(f"{took}\n")
