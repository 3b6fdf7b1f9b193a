"""What went wrong, as a type.

Collectives raise torch.distributed.DistBackendError (ValueError for arguments that can't work), as with any backend. Its
text begins with the kind of failure; `kind()` reads it, `typed()` turns it into one of the classes below.
"""


class ConvoyError(RuntimeError):
    """A failure of Convoy; the text names group, ranks and what to do."""


class DeadlineExceeded(ConvoyError, TimeoutError):
    """Some ranks did not come in time; the text names them."""


class Aborted(ConvoyError):
    """A rank died, or somebody called abort()."""


class Mismatch(ConvoyError):
    """The ranks asked for different things (operation, size, dtype, root)."""


class Unavailable(ConvoyError):
    """A rank or the store could not be reached."""


class ResourceExhausted(ConvoyError):
    """No memory or descriptors left."""


_TYPES = {
    "deadline exceeded": DeadlineExceeded,
    "aborted": Aborted,
    "mismatch": Mismatch,
    "unavailable": Unavailable,
    "resource exhausted": ResourceExhausted,
}


def kind(error: BaseException) -> str:
    """"deadline exceeded", "aborted", "mismatch", ...; "" for an error that is not Convoy's."""
    head = str(error).split(":", 1)[0]
    return head if head in _TYPES or head in ("invalid argument", "failed precondition", "internal") else ""


def typed(error: BaseException) -> ConvoyError:
    """The same failure as one of this module's types: `raise convoy.errors.typed(e) from e`."""
    return _TYPES.get(kind(error), ConvoyError)(str(error))
