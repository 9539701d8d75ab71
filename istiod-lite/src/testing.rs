//! For tests only: an API server in this process.

pub mod api_server;
