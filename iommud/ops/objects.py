"""DESTROY."""

from .request import Request


async def destroy(request: Request) -> None:
    """ENOENT: no such object. EBUSY: something uses it. Ref: v7.3 main.c iommufd_destroy"""
    request.context.objects.remove(request.cmd.id)
