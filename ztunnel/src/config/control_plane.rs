//! Who tells us of the mesh and gives us certificates, how we know them, and what proves us to them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_identity::tls::KeyExchange;
use mesh_runtime::knobs::{Knobs, Setting};

use super::mesh_file::MeshFile;
use super::{Local, Remote, Root, Token, Told};

pub(super) const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";
/// Where Linux distributions keep the roots that `SYSTEM` means.
pub(super) const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(super) fn xds(knobs: &mut Knobs<'_>, told: &Told<'_>, file: &MeshFile) -> (Option<Remote>, bool, Option<Local>) {
    knobs.section("Control plane");
    let address: Option<String> = knobs.optional(
        "XDS_ADDRESS",
        "`discoveryAddress`, else as CA_ADDRESS",
        "Where addresses and policies come from (`https://host:port`); empty: from nowhere.",
    );
    let alternative_name =
        knobs.optional("ALT_XDS_HOSTNAME", "the host of the address", "The name in the control plane's certificate.");
    let root: String = knobs.value(
        "XDS_ROOT_CA",
        "./var/run/secrets/istio/root-cert.pem",
        "Whom the control plane is verified by: a file, `SYSTEM`, or PEM text.",
    );
    let headers = knobs.prefixed("XDS_HEADER_", "A header of every request to the control plane.");
    let on_demand = knobs.value(
        "XDS_ON_DEMAND",
        "false",
        "Ask for addresses when a connection needs them, instead of keeping all. Needs DNS capture to be off.",
    );
    let path: Option<PathBuf> = knobs.optional(
        "LOCAL_XDS_PATH",
        "–",
        "A YAML file of workloads, services and policies, beside or instead of the control plane.",
    );
    let text: Option<String> = knobs.optional("LOCAL_XDS", "–", "The same as text.");
    if path.is_some() && text.is_some() {
        knobs.refuse("LOCAL_XDS", "nothing, because LOCAL_XDS_PATH is set too; leave one of them out");
    }
    let local = path.map(Local::File).or(text.map(Local::Text));
    let address = address.or_else(|| file.discovery_address.clone()).unwrap_or_else(|| default_address(told));
    let url = (!address.is_empty()).then(|| url(knobs, "XDS_ADDRESS", &address)).flatten();
    let remote = url.map(|url| Remote { url, root: self::root(&root), alternative_name, headers: headers.into_iter().collect() });
    (remote, on_demand, local)
}

pub(super) fn certificates(knobs: &mut Knobs<'_>, told: &Told<'_>) -> (Remote, Duration, Token, Option<PathBuf>) {
    knobs.section("Certificates");
    let default = "`https://istiod.istio-system.svc:15012` in a cluster, else `https://localhost:15012`";
    let address: Option<String> = knobs.optional("CA_ADDRESS", default, "Where certificates come from.");
    let alternative_name = knobs.optional("ALT_CA_HOSTNAME", "the host of the address", "The name in the CA's certificate.");
    let root: String = knobs.value(
        "CA_ROOT_CA",
        "./var/run/secrets/istio/root-cert.pem",
        "Whom the CA is verified by: a file, `SYSTEM`, or PEM text.",
    );
    let headers = knobs.prefixed("CA_HEADER_", "A header of every request to the CA.");
    let token: Option<String> = knobs.optional(
        "AUTH_TOKEN",
        "`./var/run/secrets/tokens/istio-token` if it is there",
        "What proves us to the control plane and the CA: the path of a file that is there, else the token itself.",
    );
    let life: Duration = knobs.value("SECRET_TTL", "24h", "The life that is asked for, for each certificate.");
    let crl = knobs.optional("CRL_PATH", "–", "A file of revocation lists, PEM or DER.");
    let fake = knobs.value::<bool>("FAKE_CA", "false", "Not supported: certificates that nobody vouches for.");
    if fake {
        knobs.refuse("FAKE_CA", "false: certificates that nobody vouches for are not supported; run istiod-lite as the CA");
    }
    if life.is_zero() {
        knobs.refuse("SECRET_TTL", "a life longer than nothing");
    }
    let address = address.filter(|address| !address.is_empty()).unwrap_or_else(|| default_address(told));
    let url = url(knobs, "CA_ADDRESS", &address).unwrap_or_default();
    let is_file = |path: &str| (told.read)(Path::new(path)).is_ok();
    let token = match token {
        Some(token) if is_file(&token) => Token::File(token.into()),
        Some(token) if token.trim().is_empty() => Token::None,
        Some(token) => Token::Text(token.trim().to_owned()),
        None if is_file(TOKEN_FILE) => Token::File(TOKEN_FILE.into()),
        None => Token::None,
    };
    (Remote { url, root: self::root(&root), alternative_name, headers: headers.into_iter().collect() }, life, token, crl)
}

/// In a cluster every pod is told where the API server is.
fn default_address(told: &Told<'_>) -> String {
    let in_cluster = told.environment.contains_key("KUBERNETES_SERVICE_HOST");
    if in_cluster { "https://istiod.istio-system.svc:15012" } else { "https://localhost:15012" }.to_owned()
}

fn url(knobs: &mut Knobs<'_>, env: &str, address: &str) -> Option<String> {
    // The mesh's file names an address without a scheme.
    let url = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let parsed = url
        .parse::<http::Uri>()
        .ok()
        .filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty()));
    let plain = parsed.is_some_and(|uri| matches!(uri.path(), "" | "/") && uri.query().is_none());
    if !plain {
        let whose = if knobs.given(env).is_some() { env } else { "PROXY_CONFIG" };
        knobs.refuse(whose, format!("https://host:port, not {address:?}"));
        return None;
    }
    Some(url)
}

fn root(text: &str) -> Root {
    match text {
        "SYSTEM" => Root::File(SYSTEM_ROOTS.into()),
        pem if pem.trim_start().starts_with("-----BEGIN") => Root::Pem(pem.to_owned()),
        path => Root::File(path.into()),
    }
}

pub(super) fn compliance(knobs: &mut Knobs<'_>) -> KeyExchange {
    let policy: Option<String> = knobs.optional(
        "COMPLIANCE_POLICY",
        "none",
        "`pqc`: only key exchanges that a quantum computer does not break (X25519MLKEM768). Other policies are not supported.",
    );
    let key_exchange = match policy.as_deref() {
        None | Some("") => KeyExchange::Standard,
        Some("pqc") => KeyExchange::PostQuantumOnly,
        Some(_) => {
            // The field's daemons start without it; a policy that somebody believes in and that does not hold is worse than no start.
            knobs.refuse("COMPLIANCE_POLICY", "pqc, or nothing: other policies are not supported");
            KeyExchange::PostQuantumOnly
        }
    };
    knobs.declare("TLS12_ENABLED", bool::KIND.to_owned(), "false", "Not supported: TLS 1.3 only.");
    if knobs.given("TLS12_ENABLED") == Some("true") {
        knobs.refuse("TLS12_ENABLED", "false: only TLS 1.3 is supported");
    }
    key_exchange
}
