"""A virtual machine that runs this machine's own files on Debian's kernel, with systemd as its
first program; and commands in it.

`/` is the host's, read-only by 9p, under a tmpfs that takes what is written and forgets it. `SHARE`
is the host's, writable, at the same path. /etc/systemd/system holds our units only, so that none of
the host's services starts in there; the target is vm.target. One virtio port carries the commands
(guest/agent.py); the console goes to a file.

IOMMUD_VM_ACCEL chooses QEMU's accelerator: tcg (the default: it needs nothing of the machine), or
kvm.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.boot import kernel
from tests.boot.initramfs import BUSYBOX
from tests.debian import NotHere
from tests.support import ROOT

from . import initramfs
from .command import Command, Done, VmFailed

QEMU: Final = "qemu-system-x86_64"
PACKAGES: Final = ("qemu-system-x86", "busybox-static", "systemd", "kmod")
PLACE: Final = ROOT / "build" / "vm"
SHARE: Final = PLACE / "share"
CONSOLE: Final = PLACE / "console.txt"
AGENT: Final = Path(__file__).with_name("guest") / "agent.py"
PORT: Final = "iommud.agent"
MEMORY: Final = "1536M"
BOOT_SECONDS: Final = 60.0  # until the agent answers
LIMIT: Final = 60.0  # seconds for a command, unless it is given another
CONSOLE_LINES: Final = 25

ACCELERATORS: Final = {
    # With more than one processor, QEMU 7.2 panics the guest now and then.
    "tcg": ["-accel", "tcg,tb-size=512", "-cpu", "max,la57=off"],
    "kvm": ["-accel", "kvm", "-cpu", "host"],
}

UNITS: Final[dict[str, str | None]] = {
    "vm.target": "[Unit]\nDescription=The tests' agent\nRequires=basic.target vm-agent.service\nAfter=basic.target\nAllowIsolate=yes\n",
    "vm-agent.service": f"""[Unit]
DefaultDependencies=no
[Service]
ExecStart={sys.executable} -I -S {AGENT} {PORT}
StandardInput=null
KillMode=process
LimitMEMLOCK=8388608
LimitNOFILE=1024:1048576
TasksMax=infinity
OOMPolicy=continue
""",
    # What systemd itself would start on the way to basic.target, and nobody needs here.
    **dict.fromkeys(
        [
            "systemd-binfmt.service",
            "proc-sys-fs-binfmt_misc.automount",
            "systemd-firstboot.service",
            "systemd-journal-flush.service",
            "systemd-journal-catalog-update.service",
            "systemd-machine-id-commit.service",
            "systemd-pcrphase.service",
            "systemd-pcrphase-sysinit.service",
            "systemd-random-seed.service",
            "systemd-repart.service",
            "systemd-update-utmp.service",
            "systemd-update-done.service",
            "systemd-remount-fs.service",
            "systemd-ask-password-console.path",
            "systemd-ask-password-wall.path",
            "systemd-initctl.socket",
            "systemd-fsck-root.service",
            "systemd-hwdb-update.service",
            "systemd-tmpfiles-setup.service",
            "systemd-tmpfiles-clean.timer",
            "systemd-sysctl.service",
            "systemd-sysusers.service",
            "ldconfig.service",
            "kmod-static-nodes.service",
            "modprobe@.service",
            "timers.target",
            "sys-kernel-config.mount",
            "sys-kernel-tracing.mount",
            "sys-kernel-debug.mount",
            "dev-mqueue.mount",
            "cryptsetup.target",
            "integritysetup.target",
            "veritysetup.target",
            "tmp.mount",
        ]
    ),
}


class Machine:
    """One boot. Enter it to boot; `run` and `start` then run commands in it; leaving it ends it,
    whatever state it is in.
    """

    def __init__(self, accelerator: str | None = None) -> None:
        """`accelerator`: a key of ACCELERATORS, else what IOMMUD_VM_ACCEL says."""
        self.accelerator = accelerator or os.environ.get("IOMMUD_VM_ACCEL") or "tcg"
        self.booted = 0.0  # seconds from the start of QEMU until the agent answered
        self._began = 0.0
        self._commands: dict[int, Command] = {}
        self._next_id = 1
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._lost: str | None = None
        self._qemu: subprocess.Popen[bytes]
        self._link: socket.socket
        self._reader: threading.Thread

    def __enter__(self) -> "Machine":
        """Boot. Raises NotHere (the machine cannot run it), VmFailed (it should have, and
        did not).
        """
        accelerator = ACCELERATORS.get(self.accelerator)
        if accelerator is None:
            raise VmFailed(f"IOMMUD_VM_ACCEL={self.accelerator} is none of: {', '.join(ACCELERATORS)}")
        need()
        found = kernel.find()
        shutil.rmtree(SHARE, ignore_errors=True)
        SHARE.mkdir(parents=True)
        settings = {
            "share": str(SHARE),
            "release": found.release,
            "modules": str(found.modules),
            "machine_id": secrets.token_hex(16),
        }
        ramdisk = PLACE / "initramfs.cpio"
        ramdisk.write_bytes(initramfs.build(found, settings, UNITS))
        self._link, theirs = socket.socketpair()
        with theirs, open(PLACE / "qemu.txt", "wb") as complaints:
            self._began = time.monotonic()
            self._qemu = subprocess.Popen(
                [QEMU, *accelerator, *_arguments(found.image, ramdisk, theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                pass_fds=[theirs.fileno()],
            )
        self._reader = threading.Thread(target=self._read, name="vm", daemon=True)
        self._reader.start()
        try:
            if not self._ready.wait(BOOT_SECONDS):
                self._lose(f"did not boot in {BOOT_SECONDS:.0f} s")
            self.check()
        except BaseException:
            self.__exit__()
            raise
        self.booted = self.seconds
        return self

    def __exit__(self, *_: object) -> None:
        self._qemu.kill()  # nothing in there is worth keeping
        self._qemu.wait()
        self._reader.join()
        self._link.close()

    @property
    def seconds(self) -> float:
        """Since QEMU was started."""
        return time.monotonic() - self._began

    @property
    def processor_seconds(self) -> float:
        """What QEMU has used of a processor: unlike `seconds`, not a matter of what else the
        machine does.
        """
        fields = Path(f"/proc/{self._qemu.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, *argv: str, limit: float = LIMIT, **how: Any) -> Done:
        """Run a command to its end (at most `limit` seconds). `how`: as `start` takes it."""
        return self.start(*argv, limit=limit, **how).wait()

    def start(
        self,
        *argv: str,
        limit: float = 3600.0,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        user: tuple[int, int, list[int]] | None = None,
    ) -> Command:
        """Start a command, without waiting for it. `env` is beside PATH and HOME; `user`: uid, gid
        and groups; root unless given.
        """
        self.check()
        environment = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8", **(env or {})}
        with self._lock:
            number = self._next_id
            self._next_id += 1
            command = self._commands[number] = Command(
                argv, limit, lambda **message: self._send(id=number, **message), self.check
            )
        self._send(id=number, run=list(argv), env=environment, cwd=cwd, user=user, limit=limit)
        return command

    def check(self) -> None:
        """Raises VmFailed if the guest is lost."""
        if self._lost is not None:
            raise VmFailed(f"the virtual machine {self._lost}\n{self.console()}")

    def console(self) -> str:
        """The last that it said, and QEMU's complaints."""
        lines = CONSOLE.read_text(errors="replace").splitlines() if CONSOLE.is_file() else []
        complaints = (PLACE / "qemu.txt").read_text(errors="replace")
        return "\n".join([f"the end of {CONSOLE}:", *lines[-CONSOLE_LINES:], complaints])

    def _send(self, **message: Any) -> None:
        try:
            self._link.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.check()

    def _read(self) -> None:
        try:
            with self._link.makefile("rb") as lines:
                for line in lines:
                    message = json.loads(line)
                    if "ready" in message:
                        self._ready.set()
                    else:
                        self._commands[message["id"]].hear(message)
        except OSError:
            pass
        self._lose("ended")

    def _lose(self, why: str) -> None:
        self._lost = self._lost or why
        self._ready.set()
        for command in list(self._commands.values()):
            command.lose()


def need() -> None:
    """Install what is missing. Raises NotHere."""
    if subprocess.run([str(ROOT / "scripts" / "need"), *PACKAGES], check=False).returncode:
        raise NotHere(f"the virtual machine needs {', '.join(PACKAGES)}")
    for tool in (QEMU, BUSYBOX, "depmod"):
        if shutil.which(tool) is None:
            raise NotHere(f"there is no {tool}")


def _arguments(image: Path, ramdisk: Path, port: int) -> list[str]:
    parameters = [
        "console=ttyS0",
        "quiet",
        "panic=-1",
        "tsc=reliable",
        "no_timer_check",
        "random.trust_cpu=on",
        "mitigations=off",
        "secretmem.enable=1",
        "systemd.unit=vm.target",
        "systemd.log_target=console",
        "systemd.show_status=no",
        "rd.systemd.gpt_auto=no",
        "systemd.condition_first_boot=no",
    ]
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"),
        *("-machine", "q35", "-smp", "1", "-m", MEMORY),
        *("-kernel", str(image), "-initrd", str(ramdisk), "-append", " ".join(parameters)),
        *("-chardev", f"file,id=console,path={CONSOLE}", "-serial", "chardev:console"),
        *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
        *("-fsdev", f"local,id=share,path={SHARE},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=share,mount_tag=share"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={port}"),
        *("-device", f"virtserialport,chardev=agent,name={PORT}"),
    ]
