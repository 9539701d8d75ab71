//! The controller: Kubernetes objects or files in, xDS and certificates out.
