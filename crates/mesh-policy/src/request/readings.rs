//! What an endpoint may take a path, a host or a method for, beside what was written. Pure.
//!
//! Policy judges what is forwarded, byte for byte, and endpoints do not agree on what that means: one merges slashes, one
//! decodes `%2F`, one cuts parameters off. An ALLOW is about what was written; a DENY is meant for what is served, so it
//! hears all of these readings, and what an ALLOW excludes is excluded under each of them (spec/reliability.md V-40 to V-42).

/// Without the parameters of its segments: what containers of Java route by. None: there are none.
pub(super) fn without_parameters(path: &str) -> Option<String> {
    path.contains(';').then(|| {
        let names = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        names.collect::<Vec<_>>().join("/")
    })
}

/// The path with nothing left to decode, merge or remove, with its parameters and without them; only those that are news.
pub(super) fn plain_paths(path: &str, without_parameters: Option<&str>) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    for given in [Some(path), without_parameters].into_iter().flatten() {
        if let Some(plain) = plain(given)
            && !found.contains(&plain)
        {
            found.push(plain);
        }
    }
    found
}

/// None: it is plain already, as nearly every path is.
fn plain(path: &str) -> Option<Vec<u8>> {
    let bytes = path.as_bytes();
    let odd = |pair: &[u8]| matches!(pair, b"//" | b"/.") || pair[0] == b'%' || pair[0] == b'\\';
    if !bytes.windows(2).any(odd) && bytes.last() != Some(&b'\\') {
        return None;
    }
    let decoded = decode(bytes);
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut is_folder = false;
    for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
        is_folder = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    let mut plain = vec![b'/'];
    plain.extend_from_slice(&kept.join(&b'/'));
    if is_folder && !kept.is_empty() {
        plain.push(b'/');
    }
    (plain != bytes).then_some(plain)
}

/// Once, as servers do; what is no escape stays.
fn decode(bytes: &[u8]) -> Vec<u8> {
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    decoded
}

/// The same host in other spellings: without its port and the dot of the root, and with the port that was dialled.
/// `host` is in lower case.
pub(super) fn hosts(host: &str, dialled: u16) -> Vec<String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (host, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let with_port = match port {
        Some(port) => format!("{name}:{port}"),
        None => format!("{name}:{dialled}"),
    };
    [name.to_owned(), with_port].into_iter().filter(|reading| reading != host).collect()
}

/// Methods are told apart by case, and not by every endpoint.
pub(super) fn method(method: &str) -> Option<String> {
    method.bytes().any(|byte| byte.is_ascii_lowercase()).then(|| method.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_path_is_what_each_kind_of_endpoint_takes_it_for() {
        // path, other readings of it
        let table: &[(&str, &[&str])] = &[
            ("/", &[]),
            ("/admin", &[]),
            ("/admin/", &[]),
            ("/a.b/c-d", &[]),
            ("//admin", &["/admin"]),
            ("/admin//", &["/admin/"]),
            ("/%2Fadmin", &["/admin"]),
            ("/x%2F..%2Fadmin", &["/admin"]),
            ("/x%5Cadmin", &["/x/admin"]),
            ("/x\\admin", &["/x/admin"]),
            ("/admin\\", &["/admin/"]),
            ("/c%2B%2B", &["/c++"]),
            ("/%61dmin", &["/admin"]),
            ("/./admin", &["/admin"]),
            ("/admin/.", &["/admin/"]),
            ("/x/../admin", &["/admin"]),
            ("/..", &["/"]),
            ("/100%", &[]),
            ("/100%zz", &[]),
            ("/a%252Fb", &["/a%2Fb"]),
            ("/admin;x=1", &["/admin"]),
            ("/admin;x=1/users;y", &["/admin/users"]),
            ("/;x/admin", &["//admin", "/admin"]),
            ("//admin;x", &["//admin", "/admin;x", "/admin"]),
            ("/admin%3Bx", &["/admin;x"]),
            ("/%C3%BC;x", &["/%C3%BC", "/ü;x", "/ü"]),
        ];
        for (path, expected) in table {
            let without = without_parameters(path);
            let plain = plain_paths(path, without.as_deref());
            let plain = plain.iter().map(|path| String::from_utf8(path.clone()).unwrap());
            let got: Vec<String> = without.clone().into_iter().chain(plain).collect();
            assert_eq!(got, *expected, "{path}");
        }
    }

    #[test]
    fn a_host_has_several_spellings() {
        let table: &[(&str, &[&str])] = &[
            ("admin.x", &["admin.x:8080"]),
            ("admin.x:80", &["admin.x"]),
            ("admin.x.", &["admin.x", "admin.x:8080"]),
            ("admin.x.:80", &["admin.x", "admin.x:80"]),
            ("[::1]", &["[::1]:8080"]),
            ("[::1]:80", &["[::1]"]),
        ];
        for (host, expected) in table {
            assert_eq!(hosts(host, 8080), *expected, "{host}");
        }
    }
}
