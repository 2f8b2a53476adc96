"""The exception by which a request is refused, for the parts that import nothing of cuse_glue's
rooms.
"""

from cuse_glue.errors import IoctlError as IoctlError
from cuse_glue.errors import errno_name as errno_name
