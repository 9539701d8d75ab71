//! Which pages of other origins may read what this service answers (spec/waypoint.md 2.4).

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use mesh_xds::messages::waypoint as wire;

use super::{Answer, Reason};
use crate::facts::Rejection;
use crate::route::Text;

/// Entries of one list (spec/waypoint.md 2.4).
pub const ENTRIES_MAX: usize = 64;
/// How long a browser may remember an answer, where it is not said (spec/waypoint.md 2.4).
const MAX_AGE_S: u64 = 5;

#[derive(Clone, Debug)]
pub struct Cors {
    origins: Vec<Origin>,
    patterns: Vec<Text>,
    credentials: bool,
    methods: List,
    headers: List,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
    forward_unmatched_preflights: bool,
}

#[derive(Clone, Debug)]
enum Origin {
    Any,
    Exact(Box<str>),
    /// One star, which stands for one or more labels.
    Wildcard {
        before: Box<str>,
        after: Box<str>,
    },
}

#[derive(Clone, Debug)]
enum List {
    /// What the client asks for.
    Asked,
    Named(Option<HeaderValue>),
}

impl Cors {
    pub fn compile(wire: &wire::Cors) -> Result<Cors, Rejection> {
        let lists = [&wire.allow_origins, &wire.allow_methods, &wire.allow_headers, &wire.expose_headers];
        if lists.iter().any(|list| list.len() > ENTRIES_MAX) || wire.allow_origin_matches.len() > ENTRIES_MAX {
            return Err(Rejection::new("UnsupportedValue", format!("more than {ENTRIES_MAX} entries in a list of CORS")));
        }
        let expose = if wire.allow_credentials && wire.expose_headers.iter().any(|name| name == "*") {
            // With credentials a star is the name of a header, not a wildcard (Fetch, 3.3.5).
            wire.expose_headers.iter().filter(|name| *name != "*").cloned().collect()
        } else {
            wire.expose_headers.clone()
        };
        Ok(Cors {
            origins: wire.allow_origins.iter().map(|origin| Origin::compile(origin)).collect::<Result<_, _>>()?,
            patterns: wire.allow_origin_matches.iter().map(Text::compile).collect::<Result<_, _>>()?,
            credentials: wire.allow_credentials,
            methods: List::compile(&wire.allow_methods)?,
            headers: List::compile(&wire.allow_headers)?,
            expose: joined(&expose)?,
            max_age: HeaderValue::from(if wire.max_age_s == 0 { MAX_AGE_S } else { wire.max_age_s }),
            forward_unmatched_preflights: wire.forward_unmatched_preflights,
        })
    }

    /// The answer to a browser that asks whether it may; `None`: it is no such question, or it is the backend's to answer.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Answer> {
        if !is_preflight(method, headers) {
            return None;
        }
        let origin = headers.get(header::ORIGIN)?;
        let mut answer = Answer::empty(StatusCode::OK, Reason::Preflight);
        if !self.allows(origin) {
            return if self.forward_unmatched_preflights { None } else { Some(answer) };
        }
        let to = &mut answer.headers;
        self.tell_origin(origin, to);
        self.methods.tell(header::ACCESS_CONTROL_ALLOW_METHODS, header::ACCESS_CONTROL_REQUEST_METHOD, headers, to);
        self.headers.tell(header::ACCESS_CONTROL_ALLOW_HEADERS, header::ACCESS_CONTROL_REQUEST_HEADERS, headers, to);
        to.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        Some(answer)
    }

    /// What the answer to any other request gets.
    pub fn response(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let Some(origin) = origin.filter(|origin| self.allows(origin)) else {
            // A cache must not give this answer to an origin that would have been told more.
            if !self.tells_everyone() {
                vary(headers, header::ORIGIN);
            }
            return;
        };
        self.tell_origin(origin, headers);
        if let Some(expose) = &self.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.origins.iter().any(|allowed| allowed.matches(origin)) || self.patterns.iter().any(|pattern| pattern.matches(origin))
    }

    /// One answer for all: a star, which does not go together with credentials.
    fn tells_everyone(&self) -> bool {
        !self.credentials && self.origins.iter().any(|origin| matches!(origin, Origin::Any))
    }

    fn tell_origin(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        if self.tells_everyone() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            vary(headers, header::ORIGIN);
        }
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

/// A browser's question whether a request would be allowed.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Origin {
    fn compile(text: &str) -> Result<Origin, Rejection> {
        if text == "*" {
            return Ok(Origin::Any);
        }
        match text.split_once('*') {
            None => Ok(Origin::Exact(text.into())),
            Some((before, after)) if !after.contains('*') => Ok(Origin::Wildcard { before: before.into(), after: after.into() }),
            Some(_) => Err(Rejection::new("UnsupportedValue", format!("the origin {text:?} has more than one star"))),
        }
    }

    fn matches(&self, origin: &str) -> bool {
        match self {
            Origin::Any => true,
            Origin::Exact(wanted) => origin.eq_ignore_ascii_case(wanted),
            Origin::Wildcard { before, after } => {
                let (Some(head), Some(middle_end)) = (origin.get(..before.len()), origin.len().checked_sub(after.len())) else {
                    return false;
                };
                let (Some(middle), Some(tail)) = (origin.get(before.len()..middle_end), origin.get(middle_end..)) else {
                    return false;
                };
                // A label, no port and no other host.
                let of_host = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.' || c == b'_';
                head.eq_ignore_ascii_case(before)
                    && tail.eq_ignore_ascii_case(after)
                    && !middle.is_empty()
                    && middle.bytes().all(of_host)
            }
        }
    }
}

impl List {
    fn compile(entries: &[String]) -> Result<List, Rejection> {
        if entries.iter().any(|entry| entry == "*") { Ok(List::Asked) } else { Ok(List::Named(joined(entries)?)) }
    }

    /// `asked`: the header of the question that says what the client wants.
    fn tell(&self, name: HeaderName, asked: HeaderName, question: &HeaderMap, to: &mut HeaderMap) {
        let value = match self {
            List::Named(value) => value.clone(),
            List::Asked => {
                let value = question.get(&asked).cloned();
                vary(to, asked);
                value
            }
        };
        if let Some(value) = value {
            to.insert(name, value);
        }
    }
}

fn joined(entries: &[String]) -> Result<Option<HeaderValue>, Rejection> {
    if let Some(wrong) = entries.iter().find(|entry| HeaderName::try_from(entry.as_str()).is_err()) {
        return Err(Rejection::new("UnsupportedValue", format!("{wrong:?} is no name of a header or method")));
    }
    if entries.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::try_from(entries.join(", "))
        .map_err(|_| Rejection::new("UnsupportedValue", "a list of CORS is no header"))?;
    Ok(Some(value))
}

fn vary(headers: &mut HeaderMap, name: HeaderName) {
    let says = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|value| value.split(',').any(|one| one.trim() == "*" || one.trim().eq_ignore_ascii_case(name.as_str())))
    };
    if !headers.get_all(header::VARY).iter().any(says) {
        headers.append(header::VARY, HeaderValue::from(name));
    }
}
