//! The certificate authority of this controller: whose it is (`root`), how its root is changed (`rotation`, `stored`,
//! `home`, `secret`, `keep`) and told (`distribute`), who calls (`authn`, `review`), where pods run (`placements`), and issuing
//! (`live`, `issue`). What a certificate looks like and the gRPC service are in mesh-identity.

pub mod rotation;
pub mod stored;
pub mod home;
pub mod secret;
pub mod live;
pub mod root;
pub mod keep;
pub mod distribute;
pub mod placements;
pub mod review;
pub mod authn;
pub mod issue;
#[cfg(test)]
mod tests;
