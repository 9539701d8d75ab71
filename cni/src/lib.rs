//! Enrols pods: rules in their network namespaces, and the socket that tells the daemon.
