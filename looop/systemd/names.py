"""Worker id <-> unit name. Pure. Ids are made of characters a unit name may hold, so nothing is escaped."""

_PREFIX = "looop-worker-"
_SUFFIX = ".scope"


def worker_unit(worker_id: str) -> str:
    """The scope of a worker."""
    return f"{_PREFIX}{worker_id}{_SUFFIX}"


def worker_of(unit: str) -> str | None:
    """The worker whose scope this is, or None when it is no worker's."""
    if unit.startswith(_PREFIX) and unit.endswith(_SUFFIX):
        return unit[len(_PREFIX) : -len(_SUFFIX)] or None
    return None
