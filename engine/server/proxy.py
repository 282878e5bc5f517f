"""The proxy in front of the listener that ends TLS, where one is set: whom to believe, and what it says.

It has seen the client's private key, and we have not. So only an address that the operator named may say who calls,
and nobody else is answered at all. That our authority issued the certificate is verified here (``certs.forwarded``),
and that it was not ended is looked up for every request, as without a proxy (B42).

Other headers of proxies, ``X-Forwarded-For`` and its kin, are not looked at.
"""

from ipaddress import ip_address

from aiohttp.http import RawRequestMessage

from certs.errors import BadCertificate
from certs.forwarded import ForwardedCertificates
from certs.tls import PeerCertificate
from engine.protocol.errors import Forbidden
from engine.settings import Listener


class Proxy:
    """Knows where it is, and reads the header in which it hands on client certificates."""

    def __init__(self, settings: Listener, certificates: ForwardedCertificates) -> None:
        """Take settings that name a header and addresses."""
        self._header = settings.client_certificate_header
        self._networks = settings.proxy_networks
        self._certificates = certificates

    def is_at(self, address: str) -> bool:
        """Say whether an address is the proxy's; one that is none, as of a peer that is gone already, is nobody's."""
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def certificate(self, message: RawRequestMessage, now: float) -> PeerCertificate:
        """Return the certificate of the client that the proxy passes a request on for.

        Raises ``Forbidden`` if there is none, or one that does not let its holder in.
        """
        values = message.headers.getall(self._header, [])
        if not any(values):
            raise Forbidden("this request comes without a client certificate, and one of this platform's is needed")
        if len(values) > 1:
            raise Forbidden("this request comes with more than one client certificate")
        try:
            return self._certificates.read(values[0], now=now)
        except BadCertificate as error:
            raise Forbidden(str(error)) from None
