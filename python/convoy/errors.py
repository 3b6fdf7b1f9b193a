"""What went wrong, as a type.

Checkpoints raise the classes below. Collectives raise torch.distributed.DistBackendError (ValueError for arguments that can't work), as with any backend. Its
text begins with the kind of failure; `kind()` reads it, `typed()` turns it into one of the classes below.
"""


class ConvoyError(RuntimeError):
    """A failure of Convoy; the text names group, ranks, path and what to do."""


class DeadlineExceeded(ConvoyError, TimeoutError):
    """Some ranks did not come in time; the text names them."""


class Aborted(ConvoyError):
    """A rank died, or somebody called abort()."""


class Mismatch(ConvoyError):
    """The ranks asked for different things (operation, size, dtype, root)."""


class Unavailable(ConvoyError):
    """A rank or the store could not be reached."""


class ResourceExhausted(ConvoyError):
    """No memory, disk space or descriptors left."""


class InvalidArgument(ConvoyError, ValueError):
    """What was given can't work; the text says how to mend it."""


class FailedPrecondition(ConvoyError):
    """The right call in the wrong state: another job has the folder, a newer Convoy has written it."""


class NotFound(ConvoyError, LookupError):
    """No such folder, step or tensor."""


class AlreadyExists(ConvoyError):
    """It is there already."""


class DataLoss(ConvoyError):
    """Bytes are truncated or not what was written; the text names file and offset."""


_TYPES = {
    "deadline exceeded": DeadlineExceeded,
    "aborted": Aborted,
    "mismatch": Mismatch,
    "unavailable": Unavailable,
    "resource exhausted": ResourceExhausted,
    "invalid argument": InvalidArgument,
    "failed precondition": FailedPrecondition,
    "not found": NotFound,
    "already exists": AlreadyExists,
    "data loss": DataLoss,
}


def kind(error: BaseException) -> str:
    """"deadline exceeded", "aborted", "mismatch", ...; "" for an error that is not Convoy's."""
    head = str(error).split(":", 1)[0]
    return head if head in _TYPES or head == "internal" else ""


def typed(error: BaseException) -> ConvoyError:
    """The same failure as one of this module's types: `raise convoy.errors.typed(e) from e`."""
    return _TYPES.get(kind(error), ConvoyError)(str(error))


def of_kind(kind: str, text: str) -> ConvoyError:
    """The failure of that kind with that text."""
    return _TYPES.get(kind, ConvoyError)(text)


def kind_of(error: ConvoyError) -> str:
    """The reverse: "data loss" of a DataLoss."""
    return next((kind for kind, of in _TYPES.items() if type(error) is of), "internal")
