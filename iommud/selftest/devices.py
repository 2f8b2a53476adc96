"""TEST_CMD's operations on devices: they are made, attached elsewhere, and go with their object.

Ref: v7.3 selftest.c iommufd_test_mock_domain
"""

from contextlib import ExitStack
from typing import Final

from ..engine.device.device import Device, bind
from ..engine.device.hwpt import Hwpt
from ..engine.mapping.ioas import Ioas
from ..engine.mapping.objects import Object
from ..ops.locking import in_steps, locked
from ..ops.noiommu import check_may_open
from ..ops.request import Request
from ..uapi.header import const
from .plug import Plugged, Socket

_WITH_FLAGS: Final = const("IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS")


class Selftest(Object):
    """The object behind a device of the test ioctl, of whatever kind. When a client destroys the
    object, the device is detached and unbound.
    """

    kind = "mock device"
    __slots__ = ("device", "plugged")

    def __init__(self) -> None:
        super().__init__()
        self.plugged: Plugged
        self.device: Device

    def destroy(self) -> None:
        self.device.detach_all()  # PASIDs too; the kernel's mock forgets them, and warns
        self.device.unbind()
        self.plugged.unplug()


async def mock_domain(request: Request, socket: Socket) -> None:
    """A new device, bound, and attached to the IOAS or HWPT `id`. Errors: Socket.plug, device.bind,
    Device.attach.

    EPERM: a device without an IOMMU takes CAP_SYS_RAWIO, as an open of VFIO's file for one does.
    """
    cmd, context = request.cmd, request.context
    flags = cmd.mock_domain_flags.dev_flags if cmd.op == _WITH_FLAGS else 0
    selftest = Selftest()
    context.objects.reserve(selftest)
    with ExitStack() as undo:
        undo.callback(context.objects.abort, selftest)
        model, iommu = selftest.plugged = socket.plug(flags)
        undo.callback(selftest.plugged.unplug)
        if not iommu.walks:
            check_may_open(request.caller, model.name)
        device = selftest.device = bind(context, model, iommu)
        undo.callback(device.unbind)
        async with locked(*changed_by(request, cmd.id)):
            hwpt_id = await in_steps(device.attach(cmd.id))
        undo.callback(device.detach)
        cmd.mock_domain.out_stdev_id = selftest.id
        cmd.mock_domain.out_hwpt_id = hwpt_id
        cmd.mock_domain.out_idev_id = device.id
        request.respond()
        undo.pop_all()
    context.objects.publish(selftest)


async def mock_domain_replace(request: Request) -> None:
    """Attach the mock device `id` to another IOAS or HWPT. Errors: Device.replace."""
    cmd = request.cmd
    selftest = request.context.objects.get(cmd.id, Selftest)
    pt_id = cmd.mock_domain_replace.pt_id
    async with locked(selftest, *changed_by(request, pt_id)):
        cmd.mock_domain_replace.pt_id = await in_steps(selftest.device.replace(pt_id))
    request.respond()


def changed_by(request: Request, pt_id: int) -> list[Object]:
    """The objects that an attachment to this ID changes, to be locked: the IOAS, and the page
    tables on the way to it.

    ENOENT: no such object. An object that is neither an IOAS nor a HWPT: none (the attachment will
    refuse it).
    """
    found = request.context.objects.get(pt_id, Object)
    if isinstance(found, Hwpt):
        return [found, found.paging, found.paging.ioas]
    return [found] if isinstance(found, Ioas) else []
