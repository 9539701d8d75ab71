//! What the texts of a policy mean (spec/waypoint.md 4.3). A text is understood or an error: one that is taken for
//! something else may turn a restriction into none.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::pattern::{Pattern, Segment, Template};
use super::policy::Attribute;
use crate::policy::{ServiceAccountMatch, StringMatch};

impl Attribute {
    /// The key of a `when`. None: it is not known, or its brackets are not.
    pub fn of_key(key: &str) -> Option<Attribute> {
        Some(match key {
            "source.ip" => Attribute::SourceIp,
            "remote.ip" => Attribute::RemoteIp,
            "source.namespace" => Attribute::Namespace,
            "source.principal" => Attribute::Principal,
            "source.serviceAccount" => Attribute::ServiceAccount,
            "source.trustDomain" => Attribute::TrustDomain,
            "request.auth.principal" => Attribute::RequestPrincipal,
            "request.auth.audiences" => Attribute::Claim(vec!["aud".into()]),
            "request.auth.presenter" => Attribute::Claim(vec!["azp".into()]),
            "destination.ip" => Attribute::DestinationIp,
            "destination.port" => Attribute::DestinationPort,
            "connection.sni" => Attribute::ServerName,
            _ => {
                let brackets = |prefix| key.strip_prefix(prefix).and_then(names_in_brackets);
                match (brackets("request.headers"), brackets("request.auth.claims")) {
                    (Some(names), _) if names.len() == 1 => Attribute::Header(names[0].to_ascii_lowercase().into()),
                    (_, Some(names)) => Attribute::Claim(names.into_iter().map(Arc::from).collect()),
                    _ => return None,
                }
            }
        })
    }
}

/// `[a][b]`, at least one, none of them empty.
fn names_in_brackets(text: &str) -> Option<Vec<&str>> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<&str> = inside.split("][").collect();
    names.iter().all(|name| !name.is_empty() && !name.contains(['[', ']'])).then_some(names)
}

impl Pattern {
    /// `namespace`: the policy's, which a service account without one is of.
    ///
    /// # Errors
    /// What is wrong with the text: the end of a sentence that begins with it.
    pub fn read(attribute: &Attribute, text: &str, namespace: &Arc<str>) -> Result<Pattern, &'static str> {
        if text.is_empty() && !matches!(attribute, Attribute::Header(_) | Attribute::Claim(_)) {
            return Err("is empty");
        }
        match attribute {
            Attribute::Principal | Attribute::ServerName => name(text).map(Pattern::Text),
            Attribute::Host => present_or(text, || name(&text.to_ascii_lowercase())),
            Attribute::Method => present_or(text, || name(text)),
            Attribute::Header(_) => present_or(text, || Ok(form(text).0)),
            Attribute::Claim(_) => Ok(Pattern::Text(form(text).0)),
            Attribute::Namespace => Ok(Pattern::read_namespace(text)),
            Attribute::TrustDomain => trust_domain(text),
            Attribute::ServiceAccount => account(text, namespace),
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => range(text),
            Attribute::DestinationPort => {
                text.parse().ok().filter(|port| *port > 0).map(Pattern::Port).ok_or("is not a port: 1 to 65535")
            }
            Attribute::RequestPrincipal => token(text),
            Attribute::Path if text.contains("{*}") || text.contains("{**}") => template(text),
            Attribute::Path => Ok(Pattern::Text(form(text).0)),
            Attribute::Unreadable => Err("belongs to a key that is not known"),
        }
    }

    /// Every `*` of a namespace stands for anything; alone it stands for any namespace.
    fn read_namespace(text: &str) -> Pattern {
        match text {
            "*" => Pattern::Text(StringMatch::Presence),
            _ if text.contains('*') => Pattern::Glob(text.split('*').map(Arc::from).collect()),
            _ => Pattern::Text(StringMatch::exact(text)),
        }
    }
}

/// A `*` at one end is a wildcard; what is left is literal. The second part is that rest.
fn form(text: &str) -> (StringMatch, &str) {
    match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
        ("*", _, _) => (StringMatch::Presence, ""),
        (_, Some(rest), _) => (StringMatch::suffix(rest), rest),
        (_, _, Some(rest)) => (StringMatch::prefix(rest), rest),
        _ => (StringMatch::exact(text), text),
    }
}

/// Of something that never holds a `*`: another one in it was meant as a wildcard.
fn name(text: &str) -> Result<StringMatch, &'static str> {
    match form(text) {
        (_, rest) if rest.contains('*') => Err("has a * that is neither its first nor its last letter"),
        (wanted, _) => Ok(wanted),
    }
}

/// Of what a client writes, `*` is also the empty text.
fn present_or(text: &str, read: impl FnOnce() -> Result<StringMatch, &'static str>) -> Result<Pattern, &'static str> {
    if text == "*" { Ok(Pattern::Present) } else { read().map(Pattern::Text) }
}

fn trust_domain(text: &str) -> Result<Pattern, &'static str> {
    match text.matches('*').count() {
        _ if text.contains('/') => Err("is not a trust domain"),
        0 => Ok(Pattern::Text(StringMatch::exact(text))),
        1 if text == "*" => Ok(Pattern::Text(StringMatch::Presence)),
        1 => Ok(Pattern::Glob(text.split('*').map(Arc::from).collect())),
        _ => Err("has more than one *"),
    }
}

fn account(text: &str, own: &Arc<str>) -> Result<Pattern, &'static str> {
    /// A namespace and an account of Kubernetes, and what is between them.
    const LENGTH_MAX: usize = 320;
    let (namespace, account) = text.split_once('/').map_or((own.clone(), text), |(namespace, account)| (namespace.into(), account));
    if namespace.is_empty() || account.is_empty() || text.contains('*') || account.contains('/') || text.len() > LENGTH_MAX {
        return Err("is not namespace/account or account");
    }
    Ok(Pattern::Account(ServiceAccountMatch { namespace, service_account: account.into() }))
}

/// An IPv4 address in the clothes of IPv6 is the IPv4 address, as it is where it arrives.
fn range(text: &str) -> Result<Pattern, &'static str> {
    let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let range = text.parse::<IpNet>().ok().or_else(single).ok_or("is neither an IP address nor a range of them")?;
    let IpNet::V6(mapped) = range else { return Ok(Pattern::Range(range)) };
    let plain = mapped.addr().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    let plain = plain.and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    Ok(Pattern::Range(plain.map_or(range, IpNet::V4)))
}

/// `issuer/subject`, where an issuer may hold `/` and a subject does not.
fn token(text: &str) -> Result<Pattern, &'static str> {
    use StringMatch::Presence;
    let read = |issuer: StringMatch, subject: StringMatch| Ok(Pattern::Token { issuer, subject });
    match text.rsplit_once('/') {
        None => match form(text).0 {
            Presence => read(Presence, Presence),
            subject @ StringMatch::Suffix(_) => read(Presence, subject),
            issuer @ StringMatch::Prefix(_) => read(issuer, Presence),
            // An issuer without a subject: no token has a principal like this.
            StringMatch::Exact(_) => Ok(Pattern::Never),
        },
        Some((issuer, subject)) => match (issuer.strip_prefix('*'), subject.contains('*')) {
            (Some(_), true) => Err("has a * at both ends"),
            (Some(""), false) => read(Presence, StringMatch::exact(subject)),
            (Some(rest), false) => read(StringMatch::suffix(rest), StringMatch::exact(subject)),
            (None, _) => read(StringMatch::exact(issuer), name(subject)?),
        },
    }
}

fn template(text: &str) -> Result<Pattern, &'static str> {
    let mut segments: Vec<&str> = text.split('/').collect();
    let open = segments.pop_if(|last| *last == "{**}").is_some();
    if segments.first() != Some(&"") {
        return Err("does not begin with /");
    }
    let read = |segment: &&str| match *segment {
        "{*}" => Ok(Segment::One),
        "{**}" => Err("has a {**} that is not at its end"),
        literal if literal.contains(['*', '{', '}']) => Err("mixes wildcards, or has one that is not a whole segment"),
        literal => Ok(Segment::Literal(literal.into())),
    };
    let segments = segments.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Pattern::Path(Template { segments, open }))
}
