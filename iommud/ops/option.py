"""OPTION. Ref: v7.3 main.c iommufd_option, ioas.c iommufd_option_rlimit_mode,
iommufd_ioas_option
"""

from errno import EINVAL, EOPNOTSUPP, EPERM
from typing import Final

from ..engine.mapping.ioas import Ioas
from ..errors import IoctlError
from ..uapi.header import const, ffi
from .locking import locked
from .request import Request

CAP_SYS_RESOURCE: Final = 24

_RLIMIT_MODE: Final = const("IOMMU_OPTION_RLIMIT_MODE")
_HUGE_PAGES: Final = const("IOMMU_OPTION_HUGE_PAGES")
_GET: Final = const("IOMMU_OPTION_OP_GET")
_SET: Final = const("IOMMU_OPTION_OP_SET")
_VAL64_OFFSET: Final = ffi.offsetof("struct iommu_option", "val64")


async def option(request: Request) -> None:
    """Get or set an option.

    EOPNOTSUPP: unknown option or operation, or an object ID for a global option. ENOENT: no such
    IOAS. EPERM: RLIMIT_MODE without CAP_SYS_RESOURCE. EBUSY: RLIMIT_MODE when there are objects.
    EINVAL: the value is not 0 or 1. EADDRINUSE: there are areas that do not fit single pages.
    """
    cmd = request.cmd
    if cmd.option_id == _RLIMIT_MODE:
        _rlimit_mode(request)
    elif cmd.option_id == _HUGE_PAGES:
        ioas = request.context.ioas(cmd.object_id)
        async with locked(ioas):
            _huge_pages(request, ioas)
    else:
        raise IoctlError(EOPNOTSUPP, f"there is no option {cmd.option_id}")
    request.write(request.address + _VAL64_OFFSET, int(cmd.val64).to_bytes(8, "little"), "val64")


def _rlimit_mode(request: Request) -> None:
    cmd = request.cmd
    if cmd.object_id:
        raise IoctlError(EOPNOTSUPP, f"RLIMIT_MODE is global; object_id is {cmd.object_id}, must be 0")
    if cmd.op == _GET:
        cmd.val64 = request.context.rlimit_mode()
    elif cmd.op == _SET:
        if not request.caller.capable(CAP_SYS_RESOURCE):
            raise IoctlError(EPERM, "RLIMIT_MODE is set with CAP_SYS_RESOURCE; the caller does not have it")
        request.context.set_rlimit_mode(cmd.val64)
    else:
        raise _unknown_operation(cmd.op)


def _huge_pages(request: Request, ioas: Ioas) -> None:
    cmd, iopt = request.cmd, ioas.iopt
    if cmd.op == _GET:
        cmd.val64 = int(iopt.large_pages)
    elif cmd.op == _SET:
        if cmd.val64 == 0:
            iopt.disable_large_pages()
        elif cmd.val64 == 1:
            iopt.enable_large_pages()
        else:
            raise IoctlError(EINVAL, f"HUGE_PAGES {cmd.val64} is neither 0 nor 1")
    else:
        raise _unknown_operation(cmd.op)


def _unknown_operation(number: int) -> IoctlError:
    return IoctlError(EOPNOTSUPP, f"op {number} is neither IOMMU_OPTION_OP_SET nor IOMMU_OPTION_OP_GET")
