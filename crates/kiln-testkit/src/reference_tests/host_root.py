#!/usr/bin/python3
"""Lets the manifests of the reference's tests do without Fedora's packages, so that they run without a network.

    host_root.py CHECKOUT

Rewrites test data of a copy of a checkout; tests and what they expect stay as they are. The host is the build root, for
both programs. Where a tree is made of packages, it has directories instead: those into which, by what the test expects,
something is put. A test that needs more of the packages than that fails with both programs, and is none of those that
are compared.
"""

import glob
import json
import os
import sys

PACKAGES = {"org.osbuild.rpm", "org.osbuild.selinux"}


def directories(manifest):
    """Where the test that a manifest belongs to expects something new."""
    try:
        with open(os.path.join(os.path.dirname(manifest), "diff.json"), encoding="utf8") as file:
            new = json.load(file)["added_files"]
    except FileNotFoundError:
        new = ["/etc/file"]
    parents = {os.path.dirname(path) for path in new}
    # A new directory is the stage's own work.
    return sorted(path for path in parents - set(new) - {"/"} if not any(path.startswith(f"{one}/") for one in new))


def without_packages(stages, name, manifest):
    """The stages, with directories in the place of packages; `name` is where a stage's name stands."""
    left = [stage for stage in stages if stage[name] not in PACKAGES]
    paths = directories(manifest)
    if len(left) == len(stages) or not paths:
        return left
    paths = [{"path": path, "parents": True, "exist_ok": True} for path in paths]
    return [{name: "org.osbuild.mkdir", "options": {"paths": paths}}, *left]


def items(stage):
    """The items of sources that a stage's inputs name."""
    for inputs in stage.get("inputs", {}).values():
        if inputs["origin"] == "org.osbuild.source":
            for reference in inputs["references"]:
                yield reference["id"] if isinstance(reference, dict) else reference


def second(manifest, path):
    """Format 2."""
    builds = {pipeline.get("build") for pipeline in manifest["pipelines"]}
    pipelines = [pipeline for pipeline in manifest["pipelines"] if f"name:{pipeline['name']}" not in builds]
    for pipeline in pipelines:
        pipeline.pop("build", None)
        pipeline["stages"] = without_packages(pipeline.get("stages", []), "type", path)
    wanted = {item for pipeline in pipelines for stage in pipeline["stages"] for item in items(stage)}
    sources = manifest.get("sources", {})
    for source in sources.values():
        source["items"] = {item: value for item, value in source["items"].items() if item in wanted}
    manifest["sources"] = {name: source for name, source in sources.items() if source["items"]}
    manifest["pipelines"] = pipelines


def first(manifest, path):
    """Format 1; its sources are those of the packages."""
    pipeline = manifest["pipeline"]
    pipeline.pop("build", None)
    pipeline["stages"] = without_packages(pipeline.get("stages", []), "name", path)
    manifest.pop("sources", None)


def main(checkout):
    for directory in ("stages/*", "assemblers"):
        for path in glob.glob(f"{checkout}/test/data/{directory}/*.json"):
            with open(path, encoding="utf8") as file:
                manifest = json.load(file)
            if manifest.get("version") == "2":
                second(manifest, path)
            elif "pipeline" in manifest:
                first(manifest, path)
            else:
                continue
            with open(path, "w", encoding="utf8") as file:
                json.dump(manifest, file)


main(sys.argv[1])
