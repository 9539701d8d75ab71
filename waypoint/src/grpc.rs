//! Unary gRPC calls to services of the mesh, for those whom policy asks.
