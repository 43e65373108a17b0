"""What a sidecar answers, read."""

from typing import Generic, TypeVar

import msgspec

from holdfast.errors import ConfigurationError

T = TypeVar("T")


class Answer(Generic[T]):
    """Answers of one kind.

    Args:
        kind: what their JSON is read as.
    """

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, body: bytes) -> T:
        """Read the body of one.

        Raises:
            ConfigurationError: it is none. The call may have written what it was to write.
        """
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise ConfigurationError(
                f"the answer cannot be read ({error}): what answers is no sidecar of Holdfast, or one of "
                "another version. Look at the address; what the call was to write may be written"
            ) from error
