#!/usr/bin/env python3
"""Drives `osbuild` as the tools above it do, and prints what it saw as one JSON object.

    drive.py [--interrupt-at TEXT] MANIFEST COMMAND…

The manifest goes to the command's standard input, its monitor writes to descriptor 3, which is read to the end.
With --interrupt-at the command gets SIGINT as soon as a record's message contains the text.

What the records say is checked as a strict reader would (`problems`), and then simplified, so that two programs
can be compared: contexts are whole again, what a stage wrote is one record, and what is never twice the same (times,
outputs) is left out.
"""

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading

MONITOR_FD = 3
MEMBERS = {"message", "result", "context", "progress", "options", "timestamp", "duration", "metadata"}
# What sources show of their progress is another matter in each program.
CHATTER = re.compile(r"^source/\S+ \(\S+\): (?!Downloaded )")


def context_id(context):
    pipeline = context.get("pipeline", {})
    stage = pipeline.get("stage", {})
    whole = {
        "origin": context.get("origin"),
        "pipeline": {
            "name": pipeline.get("name"),
            "id": pipeline.get("id"),
            "stage": {"name": stage.get("name"), "id": stage.get("id")},
        },
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


class Reader:
    """Reads records, one by one."""

    def __init__(self):
        self.contexts = {}
        self.records = []
        self.problems = []

    def check(self, condition, what):
        if not condition:
            self.problems.append(f"record {len(self.records)}: {what}")

    def line(self, line):
        self.check(line.startswith("\x1e") and line.endswith("\n"), "not a record of a JSON sequence")
        record = json.loads(line.lstrip("\x1e"))
        self.check(len(line) < 64 * 1024, "too long for readers with buffers of 64 KiB")
        self.check(not set(record) - MEMBERS, f"unknown members in {sorted(record)}")
        self.check(isinstance(record.pop("timestamp", None), float), "no timestamp")
        if "duration" in record:
            self.check(isinstance(record["duration"], float) and record["duration"] >= 0, "no duration")
            record["duration"] = "some"
        context = record["context"]
        if set(context) != {"id"}:
            self.check(context["id"] not in self.contexts, "a context was sent twice")
            self.check(context["id"] == context_id(context), "the context's id is not its hash")
            self.contexts[context["id"]] = {key: context[key] for key in context if key != "id"}
        self.check(context["id"] in self.contexts, "a context that was never sent")
        record["context"] = self.contexts.get(context["id"])
        result = record.get("result", {})
        if "source_type" not in result or not result["success"]:
            for member in ("output", "error", "results"):
                result.pop(member, None)
        message = record.get("message", "")
        # Kiln's own: how far downloads are, which is told when they take long.
        if record["progress"].get("progress", {}).get("name", "").startswith("source: "):
            del record["progress"]["progress"]
        trace = record["context"]["origin"].startswith("stages/")
        if trace:
            record.pop("message", None)
            record["trace"] = True
        if CHATTER.match(message) or (trace and self.records and self.records[-1] == record):
            return message
        self.records.append(record)
        return message


def main():
    arguments = sys.argv[1:]
    interrupt_at = None
    if arguments[0] == "--interrupt-at":
        interrupt_at = arguments[1]
        arguments = arguments[2:]
    manifest, command = arguments[0], arguments[1:]
    with open(manifest, "rb") as file:
        text = file.read()
    read_end, write_end = os.pipe()
    # The writing end becomes descriptor 3, whatever that was.
    read_end = fcntl.fcntl(read_end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.dup2(write_end, MONITOR_FD)
    if write_end != MONITOR_FD:
        os.close(write_end)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(MONITOR_FD,),
    )
    os.close(MONITOR_FD)
    streams = {}

    def collect(name, stream):
        streams[name] = stream.read().decode()

    threads = [
        threading.Thread(target=collect, args=("stdout", process.stdout)),
        threading.Thread(target=collect, args=("stderr", process.stderr)),
    ]
    for thread in threads:
        thread.start()
    process.stdin.write(text)
    process.stdin.close()
    reader = Reader()
    # A line feed inside a record is escaped, so a record is a line.
    with os.fdopen(read_end, encoding="utf-8", newline="\n") as monitor:
        for line in monitor:
            message = reader.line(line)
            if interrupt_at is not None and interrupt_at in message:
                process.send_signal(signal.SIGINT)
                interrupt_at = None
    for thread in threads:
        thread.join()
    code = process.wait()
    json.dump(
        {
            "code": code,
            "records": reader.records,
            "problems": reader.problems,
            "stdout": streams["stdout"],
            "stderr": streams["stderr"],
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
