"""Lets the reference's own tests start another program as their `osbuild`: a plugin of pytest.

    PYTHONPATH=DIRECTORY pytest -p started …

Variables:

    KILN_OSBUILD            the program to start in the reference's place; without it the reference is started
    KILN_OSBUILD_ARGUMENTS  what its command line ends with beside what a test says, separated by spaces
    KILN_REPORT             file for the report: a JSON object for each test

No test is changed: what changes is which program starts, with the arguments, descriptors, environment and directory
that the test gives it. Three ways lead to the reference's program, and each is led to the other one:

- `python -m osbuild …` as a child process: all that the tests' helper class does;
- `osbuild.main_cli.osbuild_cli()`, the program's main function within the tests' process;
- `osbuild.sources.Source.download()`, which the program does when it is given a manifest that has just this source.

The report says of each test how often it started `osbuild`; a test that never does says nothing of Kiln.
"""

import json
import os
import subprocess
import sys
import tempfile

import pytest

PROGRAM = os.environ.get("KILN_OSBUILD")
MORE = os.environ.get("KILN_OSBUILD_ARGUMENTS", "").split()
TAIL = 4000


class Starts:
    """How often the running test has started `osbuild`."""

    count = 0


def is_reference(arguments):
    """Whether a command starts the reference."""
    if not isinstance(arguments, (list, tuple)) or len(arguments) < 3:
        return False
    return arguments[0] == sys.executable and list(arguments[1:3]) == ["-m", "osbuild"]


def lead_processes():
    """Child processes that are the reference become the other program."""
    original = subprocess.Popen.__init__

    def start(self, args, *rest, **named):
        if is_reference(args):
            Starts.count += 1
            if PROGRAM:
                args = [PROGRAM, *args[3:], *MORE]
                # `-m` has the package of the directory it is called in.
                env = named.get("env")
                named["env"] = {**(os.environ if env is None else env), "PYTHONPATH": os.getcwd()}
        original(self, args, *rest, **named)

    subprocess.Popen.__init__ = start


def lead_main():
    """The reference's main function, called within the tests' process, becomes a process of the other program."""
    import osbuild.main_cli

    original = osbuild.main_cli.osbuild_cli

    def main(*rest, **named):
        Starts.count += 1
        if not PROGRAM:
            return original(*rest, **named)
        return subprocess.run([PROGRAM, *sys.argv[1:], *MORE], check=False).returncode

    osbuild.main_cli.osbuild_cli = main


def lead_sources():
    """A source's download becomes a run of the other program that has nothing else to do."""
    import osbuild.sources

    original = osbuild.sources.Source.download

    def download(self, mgr, store):
        Starts.count += 1
        if not PROGRAM:
            return original(self, mgr, store)
        source = {"items": self.items}
        if self.options:
            source["options"] = self.options
        manifest = {"version": "2", "sources": {self.info_name: source}, "pipelines": []}
        # The module's directory is two above it.
        library = os.path.dirname(os.path.dirname(self.info_path))
        with tempfile.TemporaryFile("w+", encoding="utf8") as records:
            descriptor = str(records.fileno())
            command = [PROGRAM, "--libdir", library, "--store", store.store, "-", *MORE]
            command += ["--monitor", "JSONSeqMonitor", "--monitor-fd", descriptor]
            subprocess.run(
                command, input=json.dumps(manifest), encoding="utf8", pass_fds=[records.fileno()], check=False
            )
            records.seek(0)
            for record in records.read().split("\x1e")[1:]:
                result = json.loads(record).get("result", {})
                if result.get("source_type") == self.info_name:
                    return osbuild.sources.SourceResults.from_dict(result)
        raise RuntimeError("there was no record of the download")

    osbuild.sources.Source.download = download


class Report:
    """Writes down what became of each test."""

    def __init__(self, path):
        self.file = open(path, "w", encoding="utf8")
        self.tests = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        Starts.count = 0
        self.tests[item.nodeid] = {"test": item.nodeid, "outcome": "passed", "reason": "", "output": ""}
        yield
        test = self.tests.pop(item.nodeid)
        test["starts"] = Starts.count
        self.file.write(json.dumps(test, sort_keys=True) + "\n")
        self.file.flush()

    def pytest_runtest_logreport(self, report):
        test = self.tests[report.nodeid]
        if report.outcome == "passed" or test["outcome"] != "passed":
            return
        test["outcome"] = report.outcome
        if report.skipped:
            test["reason"] = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        else:
            crash = getattr(report.longrepr, "reprcrash", None)
            test["reason"] = crash.message if crash else str(report.longrepr)
            test["output"] = "\n".join(text[-TAIL:] for _, text in report.sections)


def pytest_configure(config):
    lead_processes()
    lead_main()
    lead_sources()
    path = os.environ.get("KILN_REPORT")
    # A process of several that share the tests has a report of its own.
    if path:
        config.pluginmanager.register(Report(path), "kiln-report")
