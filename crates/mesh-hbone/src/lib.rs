//! HTTP/2 CONNECT over any stream: connect, serve, pool, keepalive.
