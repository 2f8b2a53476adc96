"""TEST_CMD's operations on PASIDs: a mock device is attached once more, for DMA that carries that
number. Ref: v7.3 selftest.c
"""

from errno import EINVAL

from ..engine.device.device import Device
from ..engine.device.hwpt import Hwpt
from ..engine.mapping.objects import Object
from ..errors import IoctlError
from ..ops.locking import in_steps, locked
from ..ops.request import Request
from .devices import Selftest, changed_by


async def pasid_attach(request: Request) -> None:
    """ENOENT: no such mock device. Errors: Device.attach. EFAULT: the HWPT's ID cannot be told; it
    is detached again.
    """
    attach = request.cmd.pasid_attach
    selftest, device = _mock_device(request)
    async with locked(selftest, *changed_by(request, attach.pt_id)):
        attach.pt_id = await in_steps(device.attach(attach.pt_id, attach.pasid))
        try:
            request.respond()
        except IoctlError:
            device.detach(attach.pasid)
            raise


async def pasid_replace(request: Request) -> None:
    """ENOENT: no such mock device. Errors: Device.replace. EFAULT: the HWPT's ID cannot be told; it
    stays replaced.
    """
    replace = request.cmd.pasid_replace
    selftest, device = _mock_device(request)
    async with locked(selftest, *changed_by(request, replace.pt_id)):
        replace.pt_id = await in_steps(device.replace(replace.pt_id, replace.pasid))
    request.respond()


async def pasid_detach(request: Request) -> None:
    """ENOENT: no such mock device. It is no error if nothing is attached."""
    selftest, device = _mock_device(request)
    async with locked(selftest):
        device.detach(request.cmd.pasid_detach.pasid)


async def pasid_check_hwpt(request: Request) -> None:
    """ENOENT: no such mock device or object. EINVAL: it is no HWPT, or not the one that is attached
    there; with `hwpt_id` 0: something is attached.
    """
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
        raise IoctlError(
            EINVAL, f"{device} has {found.hwpt if found is not None else 'nothing'} at PASID {check.pasid}, not {hwpt}"
        )


def _mock_device(request: Request) -> tuple[Selftest, Device]:
    selftest = request.context.objects.get(request.cmd.id, Selftest)
    return selftest, selftest.device
