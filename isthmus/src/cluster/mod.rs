//! A mesh on a Kubernetes cluster, seen by an operator with a kubeconfig: what is gathered (`facts`), how (`gather`, over
//! the API server and, by port-forward, from node daemons and controllers), and what is checked. Nothing is changed.

pub mod facts;
pub mod client;
pub mod gather;
pub mod check;
