"""What a server takes, and how it says that it does not: rule, value and remedy, never a traceback.

Ray must not be imported here: `search.cluster.connection` has settings that it reads at its import.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainables.recipe.config import Config

MIB = 2**20
MAX_MEGAPIXELS = 178  # Pillow decodes no larger image


class Limits(Config):
    """Bounds of one request, and of all that are in the server at once."""

    upload_mib: Annotated[int, Field(ge=1, le=1024)] = 32
    megapixels: Annotated[float, Field(gt=0, le=MAX_MEGAPIXELS)] = 16.0
    waiting: Annotated[int, Field(ge=1, le=1024, description="requests that are read, wait or are predicted")] = 16
    read_s: Annotated[float, Field(gt=0)] = 60.0  # until a body has arrived

    @property
    def upload_bytes(self) -> int:
        return self.upload_mib * MIB

    @property
    def pixels(self) -> int:
        return int(self.megapixels * 1e6)


class Batching(Config):
    """How requests are joined."""

    size: Annotated[int, Field(ge=1, le=256)] = 8
    wait_ms: Annotated[float, Field(ge=0, le=1000, description="for more, after the first of a batch")] = 5.0


class Refused(Exception):
    """A request that is not served. `status` is HTTP's."""

    def __init__(self, status: int, rule: str, value: str, remedy: str) -> None:
        super().__init__(f"{rule}, got {value}; {remedy}")
        self.status, self.rule, self.value, self.remedy = status, rule, value, remedy
