"""TEST_CMD's operations on PASIDs: a mock device attached once more, for DMA that carries that number. Ref: v7.3 selftest.c"""

from errno import EINVAL

from ..devices import mock
from ..engine.device import Device
from ..engine.hwpt import Hwpt
from ..engine.ioas import Ioas
from ..engine.objects import Object
from ..errors import IoctlError
from .locking import in_steps, locked
from .request import Request


def tables(request: Request, pt_id: int) -> list[Object]:
    """What an attachment to this ID changes, so that it can be locked: the IOAS and the page tables on the way to it.

    ENOENT: no such object. One that is neither an IOAS nor a HWPT: none (the attachment will say so).
    """
    found = request.context.objects.get(pt_id, Object)
    if isinstance(found, Hwpt):
        return [found, found.paging, found.paging.ioas]
    return [found] if isinstance(found, Ioas) else []


async def pasid_attach(request: Request) -> None:
    """ENOENT: no such mock device. Errors: Device.attach. EFAULT: the HWPT's ID cannot be told; it is detached again."""
    attach = request.cmd.pasid_attach
    selftest, device = _mock_device(request)
    async with locked(selftest, *tables(request, attach.pt_id)):
        attach.pt_id = await in_steps(device.attach(attach.pt_id, attach.pasid))
        try:
            request.respond()
        except IoctlError:
            device.detach(attach.pasid)
            raise


async def pasid_replace(request: Request) -> None:
    """ENOENT: no such mock device. Errors: Device.replace. EFAULT: the HWPT's ID cannot be told; it stays replaced."""
    replace = request.cmd.pasid_replace
    selftest, device = _mock_device(request)
    async with locked(selftest, *tables(request, replace.pt_id)):
        replace.pt_id = await in_steps(device.replace(replace.pt_id, replace.pasid))
    request.respond()


async def pasid_detach(request: Request) -> None:
    """ENOENT: no such mock device. That nothing is attached is no error."""
    selftest, device = _mock_device(request)
    async with locked(selftest):
        device.detach(request.cmd.pasid_detach.pasid)


async def pasid_check_hwpt(request: Request) -> None:
    """ENOENT: no such mock device or object. EINVAL: it is no HWPT, or not what is attached there; `hwpt_id` 0: something is."""
    check = request.cmd.pasid_check
    _, device = _mock_device(request)
    found = device.group.attachments.get(check.pasid)
    if not check.hwpt_id:
        if found is not None:
            raise IoctlError(EINVAL, f"{device} has {found.hwpt} at PASID {check.pasid}")
        return
    hwpt = request.context.objects.get(check.hwpt_id, Object)
    if not isinstance(hwpt, Hwpt):
        raise IoctlError(EINVAL, f"{hwpt} is no HWPT")
    if found is None or found.hwpt is not hwpt:
        raise IoctlError(EINVAL, f"{device} has {found.hwpt if found is not None else 'nothing'} at PASID {check.pasid}, not {hwpt}")


def _mock_device(request: Request) -> tuple[mock.Selftest, Device]:
    selftest = request.context.objects.get(request.cmd.id, mock.Selftest)
    assert selftest.device is not None
    return selftest, selftest.device
