//! How Weft's programs talk: mutual TLS, the HBONE tunnel, the control stream, certificate requests, the admin endpoint.
