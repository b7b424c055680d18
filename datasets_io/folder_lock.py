"""One run per folder: a lock that ends with the process, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from renderers import UserError

__all__ = ["lock_folder"]

# Workers of a run that was killed notice within a second.
_SECONDS_TO_WAIT = 5.0


def lock_folder(folder: Path) -> int:
    """A descriptor of the folder that holds its lock; closing it lets go.

    Raises:
        UserError: another run holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + _SECONDS_TO_WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                # A file system without locks: nothing to hold, and nobody to wait for.
                return descriptor
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise UserError(f"{folder}: another run is writing into this folder") from None
            time.sleep(0.05)
        else:
            return descriptor
