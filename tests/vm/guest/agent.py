"""In the guest: runs what the host asks for, many at once, and streams what they print.

Both ways each message is a line of JSON on a virtio-serial port. From the host: {"id", "run": argv,
"env", "cwd", "user", "limit"}, then, of one that runs, {"id", "send": text}, {"id", "end": true}
(of its input), {"id", "kill": signal}. To the host: {"ready": true} once, then {"id", "pid"},
{"id", "fd": 1 or 2, "text"}, {"id", "status", "late"}; negative status: -signal. Bytes that are no
UTF-8 come as surrogates.

A command has a session of its own. `limit` seconds after its start, all of that session is killed.
"""

import functools
import json
import os
import selectors
import signal
import sys
import time
from typing import Any, NoReturn

PORTS = "/sys/class/virtio-ports"
CHUNK = 1 << 16
# seconds in which lines of a command come together to one message: a message costs more than a line
TOGETHER = 0.01


def find_port(name: str) -> str:
    for port in os.listdir(PORTS):
        with open(f"{PORTS}/{port}/name", encoding="ascii") as file:
            if file.read().strip() == name:
                return f"/dev/{port}"
    sys.exit(f"there is no port {name}")


class Agent:
    def __init__(self, port: int) -> None:
        self.port = port
        self.selector = selectors.DefaultSelector()
        self.jobs: dict[int, Job] = {}
        self.by_pid: dict[int, Job] = {}
        self.outputs: set[int] = set()
        self.rest = b""

    def serve(self) -> None:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(read, selectors.EVENT_READ, lambda: os.read(read, CHUNK))
        self.selector.register(self.port, selectors.EVENT_READ, self.hear)
        self.tell(ready=True)
        while True:
            ends = [job.end for job in self.jobs.values() if not job.late]
            wait = max(0.0, min(ends) - time.monotonic()) if ends else None
            ready = self.selector.select(wait)
            if any(key.fd in self.outputs for key, _ in ready):
                time.sleep(TOGETHER)
            for key, _ in ready:
                if key.fileobj in self.selector.get_map():  # what came before may have closed it
                    key.data()
            self.reap()
            for job in list(self.jobs.values()):
                if not job.late and time.monotonic() >= job.end:
                    job.late = True
                    job.kill_session()

    def tell(self, **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.port, data) :]

    def hear(self) -> None:
        data = os.read(self.port, CHUNK)
        if not data:
            sys.exit("the host has closed the port")
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "run" in message:
                job = Job(self, message)
                self.jobs[job.id] = job
                self.by_pid[job.pid] = job
                self.tell(id=job.id, pid=job.pid)
            elif message["id"] in self.jobs:
                self.jobs[message["id"]].hear(message)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.by_pid:
                job = self.by_pid.pop(pid)
                job.finish()
                del self.jobs[job.id]
                self.tell(id=job.id, status=os.waitstatus_to_exitcode(status), late=job.late)


class Job:
    def __init__(self, agent: Agent, message: dict[str, Any]) -> None:
        self.agent = agent
        self.id = message["id"]
        self.late = False
        self.end = time.monotonic() + message["limit"]
        self.output: dict[int, int] = {}
        ours: list[int] = []
        theirs: list[int] = []
        for number in range(3):
            read, write = os.pipe()
            ours.append(write if number == 0 else read)
            theirs.append(read if number == 0 else write)
        self.pid = os.fork()
        if self.pid == 0:
            run(message, theirs)
        for fd in theirs:
            os.close(fd)
        self.input: int | None = ours[0]
        for number in (1, 2):
            self.output[number] = ours[number]
            os.set_blocking(ours[number], False)
            agent.outputs.add(ours[number])
            agent.selector.register(ours[number], selectors.EVENT_READ, functools.partial(self.pump, number))

    def hear(self, message: dict[str, Any]) -> None:
        if "kill" in message:
            os.kill(self.pid, message["kill"])
        if "send" in message and self.input is not None:
            try:
                os.write(self.input, message["send"].encode())
            except BrokenPipeError:
                pass
        if "end" in message and self.input is not None:
            os.close(self.input)
            self.input = None

    def pump(self, number: int) -> bool:
        try:
            data = os.read(self.output[number], CHUNK)
        except BlockingIOError:
            return False
        if data:
            self.agent.tell(id=self.id, fd=number, text=data.decode(errors="surrogateescape"))
            return True
        self.close(number)
        return False

    def finish(self) -> None:
        """The process has ended; what it started may hold its output open, and is not
        waited for.
        """
        for number in list(self.output):
            while number in self.output and self.pump(number):
                pass
            if number in self.output:
                self.close(number)
        if self.input is not None:
            os.close(self.input)

    def close(self, number: int) -> None:
        fd = self.output.pop(number)
        self.agent.selector.unregister(fd)
        self.agent.outputs.remove(fd)
        os.close(fd)

    def kill_session(self) -> None:
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    if os.getsid(int(name)) == self.pid:
                        os.kill(int(name), signal.SIGKILL)
                except ProcessLookupError:
                    pass


def run(message: dict[str, Any], files: list[int]) -> NoReturn:
    """In the child."""
    try:
        os.setsid()
        for number, fd in enumerate(files):
            os.dup2(fd, number)
        os.closerange(3, 256)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.chdir(message["cwd"])
        if message["user"]:
            user = message["user"]
            os.setgroups(user[2])
            os.setgid(user[1])
            os.setuid(user[0])
        os.execvpe(message["run"][0], message["run"], message["env"])
    except OSError as error:
        os.write(2, f"{message['run'][0]}: {error}\n".encode())
    finally:
        os._exit(127)


if __name__ == "__main__":
    Agent(os.open(find_port(sys.argv[1]), os.O_RDWR | os.O_CLOEXEC)).serve()
