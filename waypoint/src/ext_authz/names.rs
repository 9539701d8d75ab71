//! Lists of header names as operators write them. Pure.

use http::HeaderName;

/// In lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Exact(String),
    Prefix(String),
    Suffix(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<Name>);

impl Names {
    /// # Errors
    /// The end of a sentence that begins with the name of the list.
    pub fn read(texts: &[String]) -> Result<Names, String> {
        let one = |text: &String| {
            let text = text.to_ascii_lowercase();
            let name = match (text.strip_prefix('*'), text.strip_suffix('*')) {
                (Some(rest), _) => Name::Suffix(rest.to_owned()),
                (None, Some(rest)) => Name::Prefix(rest.to_owned()),
                (None, None) => Name::Exact(text.clone()),
            };
            let (Name::Exact(rest) | Name::Prefix(rest) | Name::Suffix(rest)) = &name;
            if rest.is_empty() || rest.contains('*') { Err(format!("holds {text:?}, which names no headers")) } else { Ok(name) }
        };
        texts.iter().map(one).collect::<Result<_, _>>().map(Names)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, name: &HeaderName) -> bool {
        let is = name.as_str();
        self.0.iter().any(|wanted| match wanted {
            Name::Exact(text) => is == text,
            Name::Prefix(text) => is.starts_with(text.as_str()),
            Name::Suffix(text) => is.ends_with(text.as_str()),
        })
    }
}

/// What frames a message or belongs to one connection is not somebody else's to say, and a host is the client's word.
pub fn may_be_edited(name: &HeaderName) -> bool {
    const KEPT: [&str; 9] =
        ["connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
    !KEPT.contains(&name.as_str())
}
