"""DESTROY."""

from errno import EBUSY

from ..engine.device.viommu import Viommu
from ..engine.mapping.objects import Object
from ..errors import IoctlError
from .request import Request


async def destroy(request: Request) -> None:
    """ENOENT: no such object. EBUSY: something uses it, or the caller has mapped what it shows.
    Ref: v7.3 main.c iommufd_destroy
    """
    objects = request.context.objects
    found = objects.get(request.cmd.id, Object)
    if isinstance(found, Viommu) and not found.users:
        shown = found.driver.shown
        if shown is not None and request.caller.maps(*shown):
            raise IoctlError(EBUSY, f"{found} is in use by a mapping at {shown[0]:#x} of the file")
    objects.remove(request.cmd.id)
