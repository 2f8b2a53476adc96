"""`client.py DEVICE`: does what each line says, and answers with an errno's name, or a number."""

import ctypes
import errno
import mmap
import os
import struct
import sys
import threading

BIND, ATTACH, SET_IRQS, CONFIG = 0x3B76, 0x3B77, 0x3B6E, 7 << 40
IOAS_ALLOC, DESTROY, FAULT_QUEUE_ALLOC, MAP = 0x3B81, 0x3B80, 0x3B8E, 0x3B85
GROUP_STATUS, SET_CONTAINER, UNSET_CONTAINER, GET_DEVICE_FD = 0x3B67, 0x3B68, 0x3B69, 0x3B6A
libc = ctypes.CDLL(None, use_errno=True)
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


def ioctl(fd: int, number: int, data: bytes) -> tuple[str, bytes]:
    buffer = ctypes.create_string_buffer(data, len(data))
    if libc.ioctl(fd, number, ctypes.addressof(buffer)) < 0:
        return errno.errorcode[ctypes.get_errno()], b""
    return "", buffer.raw


def bind(device: int, iommu: int) -> str:
    return ioctl(device, BIND, struct.pack("=IIiIQ", 24, 0, iommu, 0, 0))[0] or "0"


def race(device: int, iommus: list[int]) -> str:
    answers: list[str] = []
    threads = [threading.Thread(target=lambda number=number: answers.append(bind(device, number))) for number in iommus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ",".join(sorted(answers))


def main() -> None:
    """Read lines until there are no more."""
    path = sys.argv[1]
    files: list[int] = []
    mapped: list[mmap.mmap] = []
    wanted = -1
    for line in sys.stdin:
        word, *rest = line.split()
        at = int(rest[0]) if rest and rest[0].isdigit() else 0
        try:
            if word == "open":
                files.append(os.open(rest[0] if rest else path, os.O_RDWR))
                answer = str(len(files) - 1)
            elif word == "bind":  # a device, to /dev/iommu
                answer = bind(files[at], files[int(rest[1])])
            elif word == "bind-number":
                answer = bind(files[at], int(rest[1]))
            elif word == "race":  # the same by several threads at once, each to one of these
                answer = race(files[at], [files[int(number)] for number in rest[1:]])
            elif word == "attach":
                answer = ioctl(files[at], ATTACH, struct.pack("=IIII", 16, 0, int(rest[1]), 0))[0] or "0"
            elif word == "status":  # of a group
                failed, data = ioctl(files[at], GROUP_STATUS, struct.pack("=II", 8, 0))
                answer = failed or str(struct.unpack("=II", data)[1])
            elif word == "container":  # for a group
                failed, _ = ioctl(files[at], SET_CONTAINER, struct.pack("=i", files[int(rest[1])]))
                answer = failed or "0"
            elif word == "uncontainer":
                answer = ioctl(files[at], UNSET_CONTAINER, b"\0")[0] or "0"
            elif word == "device":  # of a group
                number = libc.ioctl(files[at], GET_DEVICE_FD, ctypes.c_char_p(rest[1].encode()))
                if number < 0:
                    answer = errno.errorcode[ctypes.get_errno()]
                else:
                    files.append(number)
                    answer = str(len(files) - 1)
            elif word == "wanted":  # an eventfd for the request to give a device back
                wanted = os.eventfd(0)
                answer = ioctl(files[at], SET_IRQS, struct.pack("=IIIIIi", 24, 0x24, 4, 0, 1, wanted))[0] or "0"
            elif word == "wait-wanted":
                answer = str(os.eventfd_read(wanted))
            elif word == "vendor":
                answer = os.pread(files[at], 2, CONFIG)[::-1].hex()
            elif word == "map":
                mapped.append(mmap.mmap(files[at], 4096))
                answer = str(len(mapped) - 1)
            elif word == "unmap":
                mapped[at].close()
                answer = "0"
            elif word == "load":
                answer = mapped[at][int(rest[1]) : int(rest[1]) + 4][::-1].hex()
            elif word == "close":
                os.close(files[at])
                answer = "0"
            elif word == "close_and_destroy":  # of /dev/iommu, an object, as soon as it is closed
                os.close(files.pop(at))
                failed, _ = ioctl(files[int(rest[1])], DESTROY, struct.pack("=II", 8, int(rest[2])))
                answer = failed or "0"
            elif word == "alloc":
                failed, data = ioctl(files[at], IOAS_ALLOC, struct.pack("=III", 12, 0, 0))
                answer = failed or str(struct.unpack("=III", data)[2])
            elif word == "many":  # each is gone again
                for _ in range(int(rest[1])):
                    failed, data = ioctl(files[at], IOAS_ALLOC, struct.pack("=III", 12, 0, 0))
                    if not failed:
                        (number,) = struct.unpack_from("=I", data, 8)
                        failed, _ = ioctl(files[at], DESTROY, struct.pack("=II", 8, number))
                    if failed:
                        break
                answer = failed or "0"
            elif word == "queue":
                failed, data = ioctl(files[at], FAULT_QUEUE_ALLOC, struct.pack("=IIII", 16, 0, 0, 0))
                if not failed:
                    files.append(struct.unpack("=IIII", data)[3])
                answer = failed or str(len(files) - 1)
            elif word == "destroy":
                failed, _ = ioctl(files[at], DESTROY, struct.pack("=II", 8, int(rest[1])))
                answer = failed or "0"
            elif word == "ioctl":  # of the file itself
                answer = ioctl(files[at], IOAS_ALLOC, struct.pack("=III", 12, 0, 0))[0]
            elif word == "stat":
                answer = str(os.stat(path).st_mode)
            else:
                answer = "?"
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        print(answer, flush=True)


if __name__ == "__main__":
    main()
