//! One set of scenarios, three worlds: simulation, network namespaces, Kubernetes.
