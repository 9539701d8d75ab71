//! Why a request or a stream ended as it did: one exhaustive list.
