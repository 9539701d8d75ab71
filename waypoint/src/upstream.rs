//! Connections to endpoints: HBONE, plain, TLS.
