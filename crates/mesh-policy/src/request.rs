//! Who may ask what: the same logic for a proxy that sees requests, or streams whose bytes it does not look into
//! (spec/waypoint.md 4).
//!
//! Read `policy` (what an operator wrote), `read` (what its texts mean), `pattern` (what is compared), `readings` (what an
//! endpoint may take a request for), `matchers` (when a rule matches), `decide` (the order). Here: the question. Not here: HTTP itself, tokens, those who are asked.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::identity::SpiffeId;

pub mod policy;
pub mod pattern;
pub mod read;
mod readings;
mod matchers;
pub mod decide;

pub use decide::{Because, Decision, Note, asked, decide};
pub use pattern::{Pattern, Template};
pub use policy::{Action, Attribute, Condition, Policy, Rule};

/// One request, or one stream of bytes.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Proven by a certificate.
    pub identity: Option<&'a SpiffeId>,
    /// The direct peer.
    pub source: IpAddr,
    /// The client behind the proxies that are trusted.
    pub remote: IpAddr,
    /// What was dialled. None: the client gave a name; whether an address of a policy matches is then unknown.
    pub destination: Option<IpAddr>,
    pub port: u16,
    pub server_name: Option<&'a str>,
    /// Names of one and the same trust domain: an identity of one of them is matched under each.
    pub trust_domains: &'a [Arc<str>],
    /// None: bytes that nobody looks into.
    pub http: Option<Http<'a>>,
}

#[derive(Clone, Copy)]
pub struct Http<'a> {
    pub method: &'a str,
    /// As the client wrote it.
    pub authority: &'a str,
    /// Normalized, without query.
    pub path: &'a str,
    /// Every value of a header; its name is in lower case.
    pub header: &'a dyn Fn(&str) -> Vec<&'a [u8]>,
    pub token: Option<Token<'a>>,
}

/// A token that was verified.
#[derive(Clone, Copy)]
pub struct Token<'a> {
    /// Empty: the token has none.
    pub issuer: &'a str,
    /// Empty: the token has none.
    pub subject: &'a str,
    /// The text at a path of the payload, or those in the list that is there. Numbers and truth values are no texts.
    pub claim: &'a dyn Fn(&[Arc<str>]) -> Vec<&'a str>,
}

#[cfg(test)]
mod tests;
