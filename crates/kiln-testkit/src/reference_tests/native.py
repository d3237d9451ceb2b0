"""Lets the reference's tests of single stages test Kiln's native stages: a plugin of pytest.

    PYTHONPATH=DIRECTORY pytest -p native …

It needs a mount namespace of its own, the variable KILN (the program), and the plugin `started` for its report.

The tests load a stage's Python source as a module, and either hold options against its schema or call its main function
with a tree, inputs and options, and look at what it has done. Instead, they get Kiln's schema of the stage, and a function that
writes the arguments where a build root has them and starts the native stage. How the source's own `main` is called
there says which parameter is which argument.

A test that looks into the source, or replaces functions of Python that it uses, says nothing of another program: it is
skipped when it does that.
"""

import ast
import builtins
import functools
import json
import os
import platform
import subprocess
import sys

import pytest

KILN = os.environ["KILN"]
RUN = "/run/osbuild"
INSIDE = "looks into the Python source"
# What tests replace, as it was before.
FUNCTIONS = [(subprocess, name) for name in ("run", "check_call", "check_output", "Popen", "call")]
FUNCTIONS += [(platform, "machine"), (builtins, "print")]
ORIGINALS = [getattr(module, name) for module, name in FUNCTIONS]


class Failed(subprocess.CalledProcessError, RuntimeError, ValueError):
    """The stage failed; which of Python's exceptions that is has no meaning for another program."""

    def __str__(self):
        return self.stderr


def parameters(path):
    """What the source's `main` is called with: names of arguments, or None for all of them."""
    with open(path, encoding="utf8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if not (isinstance(node, ast.If) and "__name__" in ast.dump(node.test)):
            continue
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "main":
                return [word.slice.value if isinstance(word, ast.Subscript) else None for word in call.args]
    raise ValueError(f"{path} calls no main function")


class NativeStage:
    """Stands for a stage's Python source."""

    def __init__(self, name, path):
        self.__dict__.update(stage=name, parameters=parameters(path))

    def __getattr__(self, name):
        pytest.skip(f"{INSIDE}: {name}")

    def __setattr__(self, name, value):
        pytest.skip(f"{INSIDE}: {name}")

    def main(self, *values):
        for (module, name), original in zip(FUNCTIONS, ORIGINALS):
            if getattr(module, name) is not original:
                pytest.skip(f"{INSIDE}: {module.__name__}.{name}")
        arguments = {
            "tree": "/nowhere",
            "paths": {"devices": "/dev", "inputs": f"{RUN}/inputs", "mounts": f"{RUN}/mounts"},
            "devices": {},
            "inputs": {},
            "mounts": {},
            "options": {},
            "meta": {"id": "0" * 64},
        }
        for name, value in zip(self.parameters, values):
            for member, content in (value if name is None else {name: value}).items():
                # What a test leaves out is as in a build root.
                arguments[member] = {**arguments[member], **content} if member == "paths" else content
        if arguments["tree"] != "/nowhere":
            # Some tests leave it to the stage to make its tree, which a build always has.
            os.makedirs(arguments["tree"], exist_ok=True)
        with open(f"{RUN}/api/arguments", "w", encoding="utf8") as file:
            json.dump(arguments, file, default=os.fspath)
        with open(f"{RUN}/meta", "w", encoding="utf8"):
            pass
        command = [f"{RUN}/bin/{self.stage}"]
        run = subprocess.run(command, executable=KILN, stderr=subprocess.PIPE, encoding="utf8", check=False)
        if run.returncode != 0:
            sys.stderr.write(run.stderr)
            raise Failed(run.returncode, command, stderr=run.stderr)
        return 0


@functools.lru_cache
def native_schemas():
    """Kiln's schemas of its stages, by name."""
    text = subprocess.check_output([KILN, "schema", "--format", "2"], encoding="utf8")
    definitions = json.loads(text)["definitions"]
    return {name.split(":")[1]: value for name, value in definitions.items() if name.startswith("stage:")}


def in_old_words(schema):
    """A schema in the words of the draft that the reference holds options against, which has no `const`."""
    if isinstance(schema, list):
        return [in_old_words(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: in_old_words(value) for name, value in schema.items()}
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    return schema


def lead(schemas):
    import osbuild.meta
    import osbuild.testutil.imports

    import_module = osbuild.testutil.imports.import_module_from_path
    make_options = osbuild.meta.ModuleInfo._make_options

    def load(fullname, path):
        name = os.path.basename(path)
        return NativeStage(name, path) if name in schemas else import_module(fullname, path)

    def options(self, version):
        if self.type != "Stage" or version != "2" or self.name not in schemas:
            return make_options(self, version)
        properties = in_old_words(schemas[self.name]["properties"])
        return {name: value for name, value in properties.items() if name != "type"}

    osbuild.testutil.imports.import_module_from_path = load
    osbuild.meta.ModuleInfo._make_options = options


def pytest_configure(config):
    os.makedirs(RUN, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", RUN], check=True)
    os.mkdir(f"{RUN}/api")


def pytest_collection_modifyitems(config, items):
    """Leaves the tests of native stages only."""
    schemas = native_schemas()
    wanted = [item for item in items if getattr(item.module, "STAGE_NAME", None) in schemas]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


# Before the tests' own configuration, which takes these functions, is loaded.
lead(native_schemas())
