"""The draft's status codes as exceptions: one class for each row of the tables in 2.4.7.

Whoever finds a request wrong raises one of these; the server turns it into an envelope in one place.
``http_status`` is 200 wherever R.02.02.06 and R.02.02.10 ask for it.
"""

from typing import Any, ClassVar

SUCCESS = 1000


class OcpiError(Exception):
    """A request that is answered with something else than success.

    ``message`` is for the person at the other end; ``data`` is any JSON value that helps to find the fault.
    """

    status_code: int
    http_status: ClassVar[int] = 200

    def __init__(self, message: str = "", *, data: Any = None) -> None:
        """Default to the class's own first line as the message."""
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])
        self.data = data

    @property
    def message(self) -> str:
        """What a person reads in ``status_message``."""
        return str(self)


# 2xxx: the asker did something wrong


class ClientError(OcpiError):
    """The request cannot be served as it is."""

    status_code = 2000


class InvalidParameters(OcpiError):
    """Fields are missing or invalid."""

    status_code = 2001


class MalformedBody(InvalidParameters):
    """The body is not a JSON object (R.02.02.05)."""

    http_status = 400


class NotFound(ClientError):
    """There is nothing at this path (R.02.02.07)."""

    http_status = 404


class WrongVerb(ClientError):
    """This path is served with another verb (B17)."""

    http_status = 405


class Forbidden(ClientError):
    """This client certificate is not accepted here (B42)."""

    http_status = 403


class Conflict(ClientError):
    """The connection cannot be set up as asked (R.01.03.08, R.01.03.09)."""

    http_status = 409


class TooLarge(ClientError):
    """The body is larger than this platform takes."""

    http_status = 413


class TooSlow(ClientError):
    """The request did not arrive in time."""

    http_status = 408


class TooMany(ClientError):
    """This platform has too many requests in progress here."""

    http_status = 429


# 3xxx: we did something wrong


class ServerError(OcpiError):
    """This platform could not process the request."""

    status_code = 3000
    http_status = 500


class Unavailable(ServerError):
    """This platform cannot store anything at the moment."""

    http_status = 503


# 4xxx: hub errors


class HubError(OcpiError):
    """The request could not be passed on."""

    status_code = 4000


class UnknownReceiver(OcpiError):
    """The receiver party is not known here."""

    status_code = 4001


class ForwardTimeout(OcpiError):
    """The platform that the request was passed on to did not answer in time."""

    status_code = 4002


class ForwardFailed(OcpiError):
    """The platform that the request was passed on to could not be reached."""

    status_code = 4003


# 5xxx: subscription errors


class SubscriptionError(OcpiError):
    """The subscription could not be made or changed."""

    status_code = 5000


class SubscriberNotRecognized(OcpiError):
    """The subscriber party is not one that your platform serves to this one."""

    status_code = 5001


class SubscriberNotAuthorized(OcpiError):
    """The subscriber party may not see this module of this party."""

    status_code = 5002


class PartyNotServed(OcpiError):
    """The party to subscribe to is not served here."""

    status_code = 5003


class ModuleNotServed(OcpiError):
    """This module is not served for that party."""

    status_code = 5004


class NoSuchSubscription(OcpiError):
    """There is no subscription for these parties and this module."""

    status_code = 5005


class NoSuchObject(OcpiError):
    """There is no such object in this subscription."""

    status_code = 5006


# 6xxx: Party Issued Object errors


class ObjectError(OcpiError):
    """The update could not be applied."""

    status_code = 6000


class SchemaViolated(OcpiError):
    """The payload does not conform to the module's schema."""

    status_code = 6001


class NotSubscribed(OcpiError):
    """No subscription of ours is served by this update."""

    status_code = 6002


class Immutable(OcpiError):
    """Objects of this module cannot be changed."""

    status_code = 6003


# 7xxx: errors of single remote procedure calls


class CallFailed(OcpiError):
    """The operation could not be carried out.

    ``status_code``: what the operation's use case has for the reason (R.04.01.07); left out: a generic error.
    """

    status_code = 3000

    def __init__(self, message: str = "", *, status_code: int | None = None, data: Any = None) -> None:
        super().__init__(message, data=data)
        if status_code is not None:
            self.status_code = status_code


class UnknownToken(OcpiError):
    """There is no Token of this uid and type here (R.11.02.08)."""

    status_code = 7001
