//! The node daemon: captures pods' traffic and carries it over HBONE.
