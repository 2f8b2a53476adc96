"""What the daemon may use of the system."""

import resource


def allow_many_files() -> None:
    """As many open files as the hard limit allows: each process and each file that clients mapped from takes some (cuse_glue.origin)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
