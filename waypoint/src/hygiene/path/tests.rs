//! The table of paths, and what holds for all of them.

use proptest::prelude::*;

use super::*;
use crate::testing::origins;
use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None as Untouched};

fn path(path: &str, mode: PathNormalization) -> String {
    match canonical(path, mode, EscapedSlash::Keep) {
        Ok(path) => path.into_owned(),
        Err(Turned::Refused(what)) => what.word().to_owned(),
        Err(Turned::Redirect(to)) => format!("-> {to}"),
    }
}

// V-40
#[test]
fn the_table_of_paths() {
    let same = "=";
    // path, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES; "=" is what stands to its left
    let table: &[(&str, &str, &str, &str)] = &[
        ("/", same, same, same),
        ("/a/b", same, same, same),
        ("/a/b/", same, same, same),
        ("/.", "/", same, same),
        ("/..", "/", same, same),
        ("/./", "/", same, same),
        ("/../", "/", same, same),
        ("/../../admin", "/admin", same, same),
        ("/a/./b", "/a/b", same, same),
        ("/a/../b", "/b", same, same),
        ("/a/..", "/", same, same),
        ("/a/b/..", "/a/", same, same),
        ("/a/b/.", "/a/b/", same, same),
        ("/a/...", same, same, same),
        ("/a/.b", same, same, same),
        ("/a/..b", same, same, same),
        ("/%2e%2e/admin", "/admin", same, same),
        ("/a/%2E%2e/admin", "/admin", same, same),
        ("/a/.%2e/admin", "/admin", same, same),
        ("/a/%2e/admin", "/a/admin", same, same),
        ("/%61dmin", "/admin", same, same),
        ("/%41%5f%7e", "/A_~", same, same),
        ("/a%3bx", "/a%3Bx", same, same),
        ("/a%20b", same, same, same),
        ("/%e4%b8%ad", "/%E4%B8%AD", same, same),
        ("/\\admin", "//admin", "/admin", same),
        ("\\admin", "/admin", same, same),
        ("/a\\..\\admin", "/admin", same, same),
        ("/a\\b", "/a/b", same, same),
        ("//admin", same, "/admin", same),
        ("///a//b///", same, "/a/b/", same),
        ("/a//../b", "/a/b", same, same),
        ("/a/%2fb", "/a/%2Fb", same, "/a/b"),
        ("/a%2Fb", same, same, "/a/b"),
        ("/a%5cb", "/a%5Cb", same, "/a/b"),
        ("/a%2f..%2fadmin", "invalid_escape_in_path", same, "/admin"),
        ("/a%2f%2e%2e%2fadmin", "invalid_escape_in_path", same, "/admin"),
        ("/a%5c..%5cadmin", "invalid_escape_in_path", same, "/admin"),
        ("/..%2fadmin", "invalid_escape_in_path", same, "/admin"),
        ("/a%2f..", "invalid_escape_in_path", same, "/"),
        ("/a%2f.", "invalid_escape_in_path", same, "/a/"),
        ("/a%2f..;x/admin", "invalid_escape_in_path", same, same),
        ("/a%2f..b%2f.c", "/a%2F..b%2F.c", same, "/a/..b/.c"),
        ("/%252e%252e/admin", same, same, same),
        ("/%252fadmin", same, same, same),
        ("/a;x=1/b", same, same, same),
        ("/a;x=1/../b", "/b", same, same),
        ("/..;/admin", "invalid_escape_in_path", same, same),
        ("/a/..;x=1/admin", "invalid_escape_in_path", same, same),
        ("/a/.;/admin", "invalid_escape_in_path", same, same),
        ("/a/%2e%2e;/admin", "invalid_escape_in_path", same, same),
        ("/a%00b", "nul_in_path", same, same),
        ("/a%", "invalid_escape_in_path", same, same),
        ("/a%2", "invalid_escape_in_path", same, same),
        ("/a%zz", "invalid_escape_in_path", same, same),
        ("/a%u002f", "invalid_escape_in_path", same, same),
        ("/%c0%af", "invalid_escape_in_path", same, same),
        ("/%c1%a1dmin", "invalid_escape_in_path", same, same),
        ("/%e0%80%af", "invalid_escape_in_path", same, same),
        ("/%f0%80%80%af", "invalid_escape_in_path", same, same),
        ("/caf%e9", "/caf%E9", same, same),
        ("/ADMIN", same, same, same),
    ];
    for (given, base, merged, decoded) in table {
        let mut expected = *given;
        for (mode, next) in [(Base, base), (MergeSlashes, merged), (DecodeAndMergeSlashes, decoded)] {
            expected = if *next == same { expected } else { next };
            assert_eq!(path(given, mode), expected, "{given} {mode:?}");
        }
    }
}

#[test]
fn none_touches_nothing_and_still_refuses_nul() {
    for same in ["/a/../b", "//a", "/a\\b", "/a%2fb", "/%61", "/100%", "/%c0%af"] {
        assert_eq!(path(same, Untouched), same);
    }
    assert_eq!(path("/a%00", Untouched), "nul_in_path");
}

#[test]
fn escaped_slashes_are_kept_refused_or_said_anew() {
    #[allow(clippy::type_complexity, reason = "the rows of a table")]
    let table: &[(&str, Result<&str, Turned>, Result<&str, Turned>)] = &[
        ("/a%2Fb", Err(Malformed::EscapedSlash.into()), Err(Turned::Redirect("/a/b".into()))),
        ("/a%5c..%2fb", Err(Malformed::EscapedSlash.into()), Err(Turned::Redirect("/b".into()))),
        ("/a%252Fb", Ok("/a%252Fb"), Ok("/a%252Fb")),
        ("/a/b", Ok("/a/b"), Ok("/a/b")),
    ];
    for (given, reject, redirect) in table {
        let got = |slashes| canonical(given, Base, slashes).map(Cow::into_owned);
        assert_eq!(got(EscapedSlash::Reject), reject.clone().map(str::to_owned), "{given}");
        assert_eq!(got(EscapedSlash::UnescapeAndRedirect), redirect.clone().map(str::to_owned), "{given}");
        assert_eq!(got(EscapedSlash::Keep).is_ok(), !given.contains(".."), "{given}");
    }
}

fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "/",
        "//",
        "\\",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        "%2f",
        "%2F",
        "%5c",
        "%5C",
        "%25",
        "%252f",
        "%61",
        "admin",
        "adm%69n",
        "a",
        "x",
        ";",
        ";x=1",
        "%3b",
        "%00",
        "%",
        "%c0%af",
        "%c1%a1",
        "%zz",
        "%e0%80%af",
        "ü",
        "~",
        "%7e",
    ])
}

proptest! {
    /// What was made canonical is canonical.
    #[test]
    fn once_is_enough(pieces in prop::collection::vec(piece(), 0..12)) {
        let given = format!("/{}", pieces.concat());
        for mode in PathNormalization::ALL {
            if let Ok(once) = canonical(&given, *mode, EscapedSlash::Keep) {
                let twice = canonical(&once, *mode, EscapedSlash::Keep);
                prop_assert_eq!(twice, Ok(Cow::Borrowed(&*once)), "{:?} of {}", mode, given);
            }
        }
    }

    // V-40
    /// What an endpoint would serve as `/admin` is `/admin` when policy looks at it, in the strictest mode and but for
    /// parameters, which policies can name.
    #[test]
    fn no_endpoint_finds_admin_where_policy_did_not(pieces in prop::collection::vec(piece(), 0..12)) {
        let given = format!("/{}", pieces.concat());
        if let Ok(judged) = canonical(&given, DecodeAndMergeSlashes, EscapedSlash::Keep) {
            let named = judged.split(';').next().unwrap_or_default();
            let is_admin = |path: &str| path == "/admin" || path.starts_with("/admin/");
            if !judged.contains("%3B") && !judged.contains(';') {
                for (name, read) in origins::ALL {
                    let served = read(&judged).is_some_and(|path| is_admin(&path));
                    prop_assert_eq!(served, is_admin(named), "{} is judged as {}, for {}", given, judged, name);
                }
            }
        }
    }
}
