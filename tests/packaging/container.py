"""A container as `docker run` would make it, without Docker: by runc, which makes one from a
description (OCI), for Docker too.

Its files are this machine's, read-only. Its capabilities, its devices and what its seccomp profile
forbids are those of Docker's defaults, as far as iommud meets them, and of the options on the
command line.
"""

import argparse
import json
import os
import shlex
import sys
import uuid
from pathlib import Path
from typing import Any, Final

CAPABILITIES: Final = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
# What the default profile permits only to those who have the capability.
GUARDED: Final = {
    "SYS_ADMIN": ["mount", "umount2", "unshare", "setns", "bpf", "fsopen", "fsmount", "move_mount", "open_tree"],
    "SYS_PTRACE": ["pidfd_getfd", "kcmp", "process_madvise"],
}
# What it permits to nobody. (Of June 2026; process_vm_readv, process_vm_writev and ptrace it
# permits to everybody, on Linux 4.8 and later.)
FORBIDDEN: Final = ["io_uring_setup", "io_uring_enter", "io_uring_register", "pivot_root", "userfaultfd"]
MASKED: Final = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"]
READ_ONLY: Final = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
FUSE: Final = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0}
FUSE_ALLOWED: Final = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
SYSTEM: Final = ("usr", "etc", "bin", "sbin", "lib", "lib64")


def command(line: str, image: Path, directory: Path, runc: str) -> list[str]:
    """What to run in place of the command line `docker run ...`.

    `image`: a directory whose entries are in the container as well, at `/`; its venv/bin is on the
    PATH. `directory`: to be made.
    """
    asked = _options(line)
    root = directory / "root"
    root.mkdir(parents=True)
    binds = {Path("/", entry.name): entry for entry in image.iterdir()}
    binds |= {Path(prefix): Path(prefix) for prefix in {sys.base_prefix, os.path.realpath(sys.base_prefix)}}
    for name in SYSTEM:
        system = Path("/", name)
        if system.is_symlink():
            (root / name).symlink_to(system.readlink())
        elif system.is_dir():
            binds[system] = system
    (directory / "config.json").write_text(json.dumps(_description(asked, root, binds)))
    return [runc, f"--root={directory / 'state'}", "run", f"--bundle={directory}", f"iommud-test-{uuid.uuid4()}"]


def _options(line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--rm", action="store_true", required=True)
    parser.add_argument("--device", action="append", choices=["/dev/fuse"], default=[])
    parser.add_argument("--cap-add", action="append", choices=list(GUARDED), default=[])
    parser.add_argument("--security-opt", action="append", choices=["seccomp=unconfined"], default=[])
    parser.add_argument("--user", type=int, default=0)
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    docker, run, *words = shlex.split(line)
    assert (docker, run) == ("docker", "run")
    return parser.parse_args(words)


def _description(asked: argparse.Namespace, root: Path, binds: dict[Path, Path]) -> dict[str, Any]:
    capabilities = [f"CAP_{name}" for name in [*CAPABILITIES.split(), *asked.cap_add]]
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777"],
        },
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
    ]
    mounts += [{"destination": str(at), "source": str(what), "options": ["rbind", "ro"]} for at, what in binds.items()]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": asked.user, "gid": asked.user},
            "args": asked.command,
            "env": ["PATH=/venv/bin:/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                **(dict.fromkeys(("effective", "permitted"), capabilities) if asked.user == 0 else {}),
            },
        },
        "root": {"path": str(root), "readonly": False},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
            "devices": [FUSE] if asked.device else [],
            "resources": {"devices": [{"allow": False, "access": "rwm"}, *([FUSE_ALLOWED] if asked.device else [])]},
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            **({} if asked.security_opt else {"seccomp": _profile(asked.cap_add)}),
        },
    }


def _profile(capabilities: list[str]) -> dict[str, Any]:
    names = [name for capability, guarded in GUARDED.items() if capability not in capabilities for name in guarded]
    rules: list[dict[str, Any]] = [{"names": [*names, *FORBIDDEN], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    if "SYS_ADMIN" not in capabilities:
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
