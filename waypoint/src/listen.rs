//! HBONE in: TLS with our certificate, a task for each tunnel.
