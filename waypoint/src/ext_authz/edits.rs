//! What an allowed request and its response get. Pure.

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits {
    pub request: Vec<HeaderEdit>,
    pub remove: Vec<HeaderName>,
    pub set_query: Vec<(String, String)>,
    pub remove_query: Vec<String>,
    pub response: Vec<HeaderEdit>,
    /// The route is matched anew.
    pub clear_route_cache: bool,
    /// For logs and for whoever is asked next.
    pub metadata: Option<prost_types::Struct>,
    /// Nobody decided: the service could not be asked, and its provider fails open.
    pub failed_open: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HeaderEdit {
    pub how: How,
    pub name: HeaderName,
    pub value: HeaderValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfExists,
}

impl HeaderEdit {
    pub fn apply(&self, headers: &mut HeaderMap) {
        let exists = headers.contains_key(&self.name);
        match self.how {
            How::Append => drop(headers.append(&self.name, self.value.clone())),
            How::AddIfAbsent if exists => {}
            How::OverwriteIfExists if !exists => {}
            How::AddIfAbsent | How::Overwrite | How::OverwriteIfExists => drop(headers.insert(&self.name, self.value.clone())),
        }
    }
}

impl Edits {
    pub fn changes_the_request(&self) -> bool {
        !(self.request.is_empty() && self.remove.is_empty() && self.set_query.is_empty() && self.remove_query.is_empty())
    }

    pub fn apply(&self, headers: &mut HeaderMap, query: &mut Option<String>) {
        for name in &self.remove {
            headers.remove(name);
        }
        for edit in &self.request {
            edit.apply(headers);
        }
        if self.set_query.is_empty() && self.remove_query.is_empty() {
            return;
        }
        let is = |pair: &str, name: &str| percent_decode_str(pair.split('=').next().unwrap_or_default()).decode_utf8_lossy() == name;
        let gone = |pair: &&str| self.remove_query.iter().chain(self.set_query.iter().map(|(name, _)| name)).any(|name| is(pair, name));
        let kept = query.iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty() && !gone(pair)).map(str::to_owned);
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let set = self.set_query.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
        let pairs: Vec<String> = kept.chain(set).collect();
        *query = (!pairs.is_empty()).then(|| pairs.join("&"));
    }

    pub fn apply_to_response(&self, headers: &mut HeaderMap) {
        for edit in &self.response {
            edit.apply(headers);
        }
    }
}
