# The reference's own module at work in the cache until it is killed: the counterpart of worker.rs.
# Arguments: the cache's directory, a seed, how many names there are, then the limits that may be set.
import errno
import hashlib
import json
import os
import random
import sys
import traceback

from osbuild.util.fscache import FsCache, FsCacheInfo

PATH, SEED, NAMES = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
LIMITS = [int(text) for text in sys.argv[4:]]
dice = random.Random(SEED)


def say(byte):
    os.write(1, byte)


class Finding(Exception):
    pass


def name_of_the_day():
    return f"n{dice.randrange(NAMES)}"


def fill(directory, name):
    files = {}
    for number in range(1 + dice.randrange(6)):
        path = "".join(f"d{number}{level}/" for level in range(dice.randrange(4))) + f"f{number}"
        data = f"{name} {path}\n".encode() + dice.randbytes(dice.randrange(32768))
        file = os.path.join(directory, path)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "xb") as out:
            out.write(data)
        files[path] = [len(data), hashlib.sha256(data).hexdigest()]
    with open(os.path.join(directory, "about"), "x", encoding="utf8") as out:
        json.dump({"name": name, "files": files}, out)


def check(directory, name):
    with open(os.path.join(directory, "about"), encoding="utf8") as text:
        about = json.load(text)
    if about["name"] != name:
        raise Finding(f"asked for {name}, got {about['name']}")
    found = set()
    for top, _, files in os.walk(directory):
        found.update(os.path.relpath(os.path.join(top, file), directory) for file in files)
    if found - {"about"} != set(about["files"]):
        raise Finding(f"{directory} holds {sorted(found)} instead of {sorted(about['files'])}")
    for path, (size, digest) in about["files"].items():
        with open(os.path.join(directory, path), "rb") as file:
            data = file.read()
        if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
            raise Finding(f"{directory}/{path} has other content")


def is_its_own(error):
    """
    Whether the module stumbled over others that work beside it while it evicts, as it does over its own kind:
    an entry that somebody else removes first is an error to it, and so is one that is stored under the name that
    it has just freed by unlinking the lock.
    """
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    place = {errno.ENOENT: "_atomic_open", errno.ENOTEMPTY: "_rm_r_object"}.get(error.errno)
    return "_remove_lru" in frames and frames[-1] == place


def load(cache):
    name = name_of_the_day()
    try:
        with cache.load(name) as path:
            entry = os.path.join(PATH, os.path.dirname(path))
            # The module does not look whether an entry is committed, and a killed one of its own kind may have left
            # half of one: that is no fault of the others. Nobody removes `object.info` while the entry is held.
            if os.path.exists(os.path.join(entry, "object.info")):
                check(os.path.join(PATH, path), name)
    except FsCache.MissError:
        pass


def store(cache):
    name = name_of_the_day()
    with cache.store(name) as path:
        fill(os.path.join(PATH, path), name)


def stage(cache):
    name = name_of_the_day()
    with cache.stage() as path:
        fill(os.path.join(PATH, path), name)
        check(os.path.join(PATH, path), name)


def limit(cache):
    cache.info = FsCacheInfo(maximum_size=dice.choice(LIMITS))


def prune(cache):
    cache._remove_lru(dice.randrange(100000))


ACTS = [(b"l", load, 30), (b"c", store, 45), (b"s", stage, 10), (b"m", limit, 5), (b"p", prune, 10)]


def main():
    # Started long before it is needed: loading the interpreter takes longer than most workers live.
    if os.read(0, 1) == b"":
        return
    say(b"!")
    while True:
        say(b"o")
        with FsCache("osbuild", PATH) as cache:
            say(b".")
            for _ in range(dice.randrange(40)):
                letter, act, _ = dice.choices(ACTS, [weight for _, _, weight in ACTS])[0]
                say(letter)
                try:
                    act(cache)
                except OSError as error:
                    if not is_its_own(error):
                        raise
                say(b".")


try:
    main()
except BrokenPipeError:
    pass
except BaseException:
    sys.stderr.write(f"reference {SEED}: {traceback.format_exc()}")
    sys.exit(1)
