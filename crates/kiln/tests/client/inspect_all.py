"""Inspects many manifests with the reference, in one process.

usage: inspect_all.py LIBRARY < NAMES

Each line of the input names a manifest. For each, a line of JSON says the exit code, what was written to standard
output, and whether it ended in an exception, which is no answer to be compared.
"""

import contextlib
import io
import json
import sys

from osbuild import main_cli


def inspect(library, name):
    out = io.StringIO()
    sys.argv = ["osbuild", "--libdir", library, "--inspect", name]
    # The reference looks for the descriptor of its standard output.
    out.fileno = lambda: 1
    with contextlib.redirect_stdout(out):
        try:
            code = main_cli.osbuild_cli(no_reexec=True)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            return {"code": 1, "crash": repr(error)}
    return {"code": code, "stdout": out.getvalue()}


LIBRARY = sys.argv[1]
for line in sys.stdin:
    print(json.dumps(inspect(LIBRARY, line.rstrip("\n"))), flush=True)
