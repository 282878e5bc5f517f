"""X.509 certificates and TLS for platforms that authenticate each other with client certificates.

Nothing in here knows OCPI, and nothing in here does network I/O. Times are seconds since the epoch, UTC, and are
passed in. Certificates, keys and requests are PEM at every boundary, so that callers need no X.509 library.

``names``      what a common name may be
``policy``     which keys, hashes, ciphers and lifetimes; every limit with its reason
``requests``   make a certificate signing request, check a partner's
``authority``  issue client certificates (and server certificates for a local platform)
``chains``     check and order what a partner issued to us
``files``      write whole or not at all, keys for nobody else's eyes
``tls``        contexts for both sides, changing a certificate while running, who the peer is
``forwarded``  client certificates that a proxy took in TLS and hands on in a header
``renewal``    when to ask for the next certificate
"""
