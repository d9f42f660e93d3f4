"""Runs scripts inside a QEMU machine for tests/machine/vm, which talks to it over a virtio port.

Installed in the machine as a system service, root. A line of JSON each way: {"id", "script", "user", "seconds"} comes
in; {"ready": boot id} goes out when the machine is up, {"id", "out" or "err": base64} while a script runs and
{"id", "code"} when it has ended. One script at a time: a new one ends the one before, whose caller has gone.
"""

import base64
import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any

PORT = "/dev/virtio-ports/looop"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
PATH = "/home/dev/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USER = (
    "--uid=dev --working-directory=/home/dev --setenv=XDG_RUNTIME_DIR=/run/user/1000"
    " --setenv=DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus"
).split()


class Job:
    """One script, as a service of its own: a stop leaves nothing of it behind."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.id = asked["id"]
        self.unit = f"looop-vm-{self.id}.service"
        command = ["systemd-run", "--quiet", "--wait", "--collect", "--pipe", f"--unit={self.unit}"]
        command += [f"--property=RuntimeMaxSec={asked['seconds']}", "--setenv=LANG=C.UTF-8", f"--setenv=PATH={PATH}"]
        command += ["--setenv=HOME=/root"] if asked["user"] == "root" else USER
        self.process = subprocess.Popen(
            [*command, "/bin/bash", "-c", asked["script"]],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout and self.process.stderr
        self.pipes = {self.process.stdout.fileno(): "out", self.process.stderr.fileno(): "err"}

    def stop(self) -> None:
        subprocess.run(["systemctl", "stop", self.unit], stderr=subprocess.DEVNULL)
        self.process.communicate()


def send(port: int, **message: Any) -> None:
    line = json.dumps(message).encode() + b"\n"
    while line:
        line = line[os.write(port, line):]


def relay(port: int, job: Job, pipe: int) -> None:
    chunk = os.read(pipe, 32768)
    if chunk:
        send(port, id=job.id, **{job.pipes[pipe]: base64.b64encode(chunk).decode()})
    else:
        del job.pipes[pipe]


def serve(port: int) -> None:
    job: Job | None = None
    rest = b""
    send(port, ready=Path(BOOT_ID).read_text().strip())
    while True:
        ready, _, _ = select.select([port, *(job.pipes if job else ())], [], [])
        for pipe in ready:
            if job and pipe in job.pipes:
                relay(port, job, pipe)
        if job and not job.pipes:
            send(port, id=job.id, code=job.process.wait())
            job = None
        if port in ready:
            *lines, rest = (rest + os.read(port, 65536)).split(b"\n")
            for line in lines:
                if job:
                    job.stop()
                job = Job(json.loads(line))


if __name__ == "__main__":
    serve(os.open(PORT, os.O_RDWR))
