"""Whether a folder lies on a disk that other machines share, where SQLite's locks and its log cannot be trusted."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")  # of Linux; elsewhere nothing is known
SHARED = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ocfs2", "gfs2", "glusterfs", "ceph", "lustre", "gpfs"),
        *("beegfs", "pvfs2", "orangefs", "panfs", "wekafs"),
        *("fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.ceph-fuse", "fuse.juicefs"),
        *("fuse.rclone", "fuse.goofys", "fuse.mount-s3"),
    )
)


def shared_file_system(folder: Path, mounts: str | None = None) -> str | None:
    """The kind of network file system that `folder` lies on, as `mounts` (a text like /proc/self/mounts) has it; None
    for a local disk, and where that is not known."""
    if mounts is None:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="replace") if MOUNTS.exists() else ""
    folder, found = folder.resolve(), (-1, "")
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split(" ")
        path = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place))  # a space is written \040
        if folder.is_relative_to(path):
            found = max(found, (len(path.parts), kind), key=lambda each: each[0])  # what is mounted deepest
    return found[1] if found[1] in SHARED else None
