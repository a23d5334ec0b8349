"""Which processes listen to other machines, by what Linux says of them."""

from __future__ import annotations

from pathlib import Path

LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
LISTENS = "0A"


def family_of(pid: int) -> list[int]:
    """The process and all that it started."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def open_to_others(pids: list[int]) -> list[str]:
    """TCP ports of these processes that listen on more than loopback, as /proc/net/tcp writes them."""
    own = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                own.add(str(file.readlink()))
            except OSError:
                continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    mine = [row[1] for row in rows if row[3] == LISTENS and f"socket:[{row[9]}]" in own]
    assert mine
    return [address for address in mine if address.partition(":")[0] not in LOOPBACK]
