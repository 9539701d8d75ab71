//! How three kinds of servers read a target before they look for who serves it; None: they answer 400.

/// nginx: decoded once, slashes merged, dots removed; a backslash is a character.
pub fn nginx(target: &str) -> Option<String> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let decoded = decoded(path)?;
    (!decoded.contains('\0')).then(|| clean(&decoded, &['/']))
}

/// Go's `net/http`: decoded once, then cleaned.
pub fn go(target: &str) -> Option<String> {
    let path = target.split('?').next().unwrap_or_default();
    Some(clean(&decoded(path)?, &['/']))
}

/// Containers of Java, as open as they can be configured: parameters cut off, decoded, a backslash is a slash.
pub fn java(target: &str) -> Option<String> {
    let path = target.split('?').next().unwrap_or_default();
    let named: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    Some(clean(&decoded(&named.join("/"))?, &['/', '\\']))
}

pub const ALL: [(&str, fn(&str) -> Option<String>); 3] = [("nginx", nginx), ("Go", go), ("Java", java)];

/// Whether one of them serves this target from `folder`, and which.
pub fn serving(target: &str, folder: &str) -> Option<&'static str> {
    let inside = |path: &str| path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    ALL.iter().find(|(_, read)| read(target).is_some_and(|path| inside(&path))).map(|(name, _)| *name)
}

/// None: an escape that is none. Text that is not UTF-8 keeps its ASCII.
fn decoded(path: &str) -> Option<String> {
    let digits = |at: usize| path.as_bytes().get(at..at + 2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if path.match_indices('%').any(|(at, _)| !digits(at + 1)) {
        return None;
    }
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn clean(path: &str, slashes: &[char]) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split(slashes).filter(|segment| !segment.is_empty() && *segment != ".") {
        match segment {
            ".." => _ = kept.pop(),
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}
