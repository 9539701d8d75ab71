//! A match in words, and which of its conditions a request does not meet: for operators.

use std::fmt;

use super::matcher::{HeaderKey, HeaderMatch, Matcher, Path, QueryMatch};
use super::text::Text;
use crate::facts::Head;

/// One condition of a match.
#[derive(Clone, Copy, Debug)]
pub enum Condition<'m> {
    Path(&'m Path),
    Method(&'m Text),
    Grpc(&'m Matcher),
    Scheme(&'m Text),
    Authority(&'m Text),
    SourceNamespace(&'m str),
    Port(u16),
    Header(&'m HeaderMatch),
    Query(&'m QueryMatch),
}

impl Matcher {
    /// In the order in which they count.
    pub fn conditions(&self) -> impl Iterator<Item = Condition<'_>> {
        let path = (!matches!(self.path, Path::Any)).then_some(Condition::Path(&self.path));
        let conditions = [
            path,
            self.grpc.as_ref().map(|_| Condition::Grpc(self)),
            self.method.as_ref().map(Condition::Method),
            self.scheme.as_ref().map(Condition::Scheme),
            self.authority.as_ref().map(Condition::Authority),
            self.source_namespace.as_deref().map(Condition::SourceNamespace),
            self.port.map(Condition::Port),
        ];
        conditions
            .into_iter()
            .flatten()
            .chain(self.headers.iter().map(Condition::Header))
            .chain(self.query.iter().map(Condition::Query))
    }

    /// The first condition that the request does not meet.
    pub fn misses(&self, head: &Head<'_>) -> Option<Condition<'_>> {
        self.conditions().find(|condition| !condition.holds(head))
    }
}

impl Condition<'_> {
    fn holds(&self, head: &Head<'_>) -> bool {
        match self {
            Condition::Path(path) => path.matches(head.path),
            Condition::Method(method) => method.matches(head.method.as_str()),
            Condition::Grpc(matcher) => matcher.grpc.as_ref().is_none_or(|grpc| grpc.matches(head.path)),
            Condition::Scheme(scheme) => scheme.matches(head.scheme),
            Condition::Authority(authority) => authority.matches(head.authority),
            Condition::SourceNamespace(namespace) => **namespace == *head.arrival.identity.namespace,
            Condition::Port(port) => *port == head.arrival.target.port(),
            Condition::Header(header) => header.matches(head),
            Condition::Query(query) => query.matches(head.query.unwrap_or_default()),
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.conditions().map(|condition| condition.to_string()).collect();
        f.write_str(if all.is_empty() { "every request" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = |text: &Option<Text>| text.as_ref().map_or_else(|| "of any name".to_owned(), Text::to_string);
        match self {
            Condition::Path(path) => write!(f, "path {path}"),
            Condition::Method(method) => write!(f, "method {method}"),
            Condition::Grpc(matcher) => match &matcher.grpc {
                Some(grpc) => write!(f, "gRPC service {}, method {}", any(&grpc.service), any(&grpc.method)),
                None => Ok(()),
            },
            Condition::Scheme(scheme) => write!(f, "scheme {scheme}"),
            Condition::Authority(authority) => write!(f, "authority {authority}"),
            Condition::SourceNamespace(namespace) => write!(f, "client of namespace {namespace}"),
            Condition::Port(port) => write!(f, "port {port}"),
            Condition::Header(header) => {
                let name = match &header.key {
                    HeaderKey::Name(name) => format!("header {name}"),
                    HeaderKey::Authority => "header host".to_owned(),
                    HeaderKey::Claim(at) => format!("claim {}", at.join(".")),
                };
                write!(f, "{name} {}{}", if header.invert { "not " } else { "" }, header.value)
            }
            Condition::Query(query) => {
                write!(f, "parameter {} {}{}", query.name, if query.invert { "not " } else { "" }, query.value)
            }
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = |ignore: &bool| if *ignore { " in any case" } else { "" };
        match self {
            Path::Any => f.write_str("any"),
            Path::Exact { path, ignore_case } => write!(f, "= {path}{}", case(ignore_case)),
            Path::Elements { prefix, ignore_case } => write!(f, "{prefix}/*{}", case(ignore_case)),
            Path::Text { prefix, ignore_case } => write!(f, "begins with {prefix}{}", case(ignore_case)),
            Path::Pattern { pattern, .. } => write!(f, "~ {pattern}"),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text::Exact(text) => write!(f, "= {text}"),
            Text::Prefix(text) => write!(f, "begins with {text}"),
            Text::Suffix(text) => write!(f, "ends with {text}"),
            Text::Pattern(pattern) => write!(f, "~ {pattern}"),
            Text::Present => f.write_str("is there"),
        }
    }
}
