//! The certificate authority of this controller: whose it is (`root`), who calls (`authn`, `review`), where pods
//! run (`placements`), and issuing (`issue`). What a certificate looks like and the gRPC service are in mesh-identity.

pub mod root;
pub mod distribute;
pub mod placements;
pub mod review;
pub mod authn;
pub mod issue;
#[cfg(test)]
mod tests;
