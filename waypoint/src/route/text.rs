//! Texts as they are compared (`StrMatch`). Patterns are of linear time, cover the whole text, and are bounded.

use std::borrow::Cow;

use mesh_xds::messages::waypoint::{StrMatch, StrMatchKind};
use regex::{Regex, RegexBuilder};

use crate::facts::Rejection;

/// Characters of a pattern. A longer one is a mistake or an attack (spec/waypoint.md 9, ReDoS).
pub const PATTERN_CHARS_MAX: usize = 1024;
/// Bytes of a compiled pattern (spec/waypoint.md 9).
pub const PATTERN_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug)]
pub enum Text {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Pattern(Regex),
    /// Whatever it is, also the empty text.
    Present,
}

impl Text {
    pub fn compile(wire: &StrMatch) -> Result<Text, Rejection> {
        match &wire.kind {
            Some(StrMatchKind::Exact(text)) => Ok(Text::Exact(text.as_str().into())),
            Some(StrMatchKind::Prefix(text)) => Ok(Text::Prefix(text.as_str().into())),
            Some(StrMatchKind::Suffix(text)) => Ok(Text::Suffix(text.as_str().into())),
            Some(StrMatchKind::Regex(pattern)) => Ok(Text::Pattern(whole(pattern, false)?)),
            Some(StrMatchKind::Present(true)) => Ok(Text::Present),
            Some(StrMatchKind::Present(false)) => {
                Err(Rejection::new("UnsupportedValue", "`present: false` asks nothing: invert the match instead"))
            }
            None => Err(Rejection::new("UnsupportedValue", "a match of no kind: say exact, prefix, suffix, regex or present")),
        }
    }

    pub fn matches(&self, text: &str) -> bool {
        self.matches_bytes(text.as_bytes())
    }

    /// For values that need not be UTF-8. A pattern sees U+FFFD where they are not.
    pub fn matches_bytes(&self, text: &[u8]) -> bool {
        match self {
            Text::Exact(wanted) => text == wanted.as_bytes(),
            Text::Prefix(wanted) => text.starts_with(wanted.as_bytes()),
            Text::Suffix(wanted) => text.ends_with(wanted.as_bytes()),
            Text::Pattern(pattern) => match String::from_utf8_lossy(text) {
                Cow::Borrowed(text) => pattern.is_match(text),
                Cow::Owned(text) => pattern.is_match(&text),
            },
            Text::Present => true,
        }
    }

    /// The text itself, where only one text matches.
    pub fn exact(&self) -> Option<&str> {
        match self {
            Text::Exact(text) => Some(text),
            _ => None,
        }
    }
}

/// A pattern that must cover the whole text.
pub fn whole(pattern: &str, ignore_case: bool) -> Result<Regex, Rejection> {
    // The pattern by itself first: one that closes our group and opens another is no pattern.
    anywhere(pattern)?;
    bounded(&format!("^(?:{pattern})$"), ignore_case).or_else(|_| {
        // A pattern in verbose mode may end with a comment, which would swallow our group's end.
        bounded(&format!("^(?:{pattern}\n)$"), ignore_case)
    })
}

/// A pattern that may be found anywhere.
pub fn anywhere(pattern: &str) -> Result<Regex, Rejection> {
    if pattern.chars().count() > PATTERN_CHARS_MAX {
        return Err(Rejection::new("UnsupportedValue", format!("a pattern of more than {PATTERN_CHARS_MAX} characters")));
    }
    bounded(pattern, false)
}

fn bounded(pattern: &str, ignore_case: bool) -> Result<Regex, Rejection> {
    let built = RegexBuilder::new(pattern)
        .case_insensitive(ignore_case)
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_BYTES_MAX)
        .build();
    built.map_err(|error| {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Rejection::new("UnsupportedValue", format!("{pattern:?} is no pattern: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: StrMatchKind) -> Result<Text, Rejection> {
        Text::compile(&StrMatch { kind: Some(kind) })
    }

    #[test]
    fn a_text_is_compared_as_its_kind_says() {
        let exact = |text: &str| StrMatchKind::Exact(text.into());
        let regex = |text: &str| StrMatchKind::Regex(text.into());
        for (kind, against, matches) in [
            (exact("v1"), "v1", true),
            (exact("v1"), "V1", false),
            (exact("v1"), "v1,v2", false),
            (StrMatchKind::Prefix("v".into()), "v1", true),
            (StrMatchKind::Prefix("v".into()), "1v", false),
            (StrMatchKind::Suffix("1".into()), "v1", true),
            (StrMatchKind::Suffix("1".into()), "1v", false),
            (StrMatchKind::Present(true), "", true),
            (regex("v[0-9]"), "v1", true),
            (regex("v[0-9]"), "v12", false),
            (regex("v[0-9]"), "xv1", false),
            (regex("a|b"), "b", true),
            (regex("a|b"), "ab", false),
            (regex("a|b"), "bx", false),
            (regex("v1"), "v1\n", false),
        ] {
            assert_eq!(text(kind.clone()).unwrap().matches(against), matches, "{kind:?} of {against:?}");
        }
        assert!(text(regex(".*")).unwrap().matches_bytes(b"\xff"));
    }

    #[test]
    fn a_pattern_that_is_none_or_has_no_bound_is_refused() {
        let long = "a".repeat(PATTERN_CHARS_MAX + 1);
        for pattern in ["(", ")(", "a{1000}{1000}", long.as_str(), r"(?=a)", r"(a)\1"] {
            assert!(text(StrMatchKind::Regex(pattern.into())).is_err(), "{pattern:.20}");
        }
        assert!(text(StrMatchKind::Present(false)).is_err());
        assert!(Text::compile(&StrMatch { kind: None }).is_err());
    }
}
