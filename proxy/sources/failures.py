"""
What can go wrong between the API server and us.

SourceError → ApiError (the server answered, with an error)
            → ConnectionFailedError (no answer, or it broke off)
            → CredentialsError (we cannot say who we are: exec plugin, token file)
            → GarbledError (an answer that is not what the API sends)
            → UnexpectedError (a mistake of this program)
"""

from __future__ import annotations

from proxy.sources.source import SourceError


class ApiError(SourceError):
    """The API server refused: an HTTP status of 400 or more, or an ERROR event in a watch."""

    def __init__(
        self, status: int, reason: str = "", message: str = "", retry_after_s: float = 0.0
    ) -> None:
        super().__init__(f"{status} {reason or message}".strip())
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def expired(self) -> bool:
        """True when the resource version or continue token is too old to go on from."""
        return self.status == 410 or self.reason in ("Expired", "Gone")

    @property
    def version_unavailable(self) -> bool:
        """
        True when the server cannot go on from the version or token it was given.

        Besides expiry: a version from the future (etcd was restored from a backup), and 400 for
        one it cannot make sense of.
        """
        too_large = "Too large resource version" in self.message
        return self.expired or too_large or self.status == 400


class ConnectionFailedError(SourceError):
    """No connection, or it broke off; the text is the operating system's reason."""


class CredentialsError(SourceError):
    """The credentials could not be obtained; the text says from where and why."""


class GarbledError(SourceError):
    """Bytes that are not a Kubernetes answer; the text says what is wrong with them."""


class UnexpectedError(SourceError):
    """What this program did not foresee; the text says what and where, to be reported."""
