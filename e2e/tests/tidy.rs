//! The rules of the house that a compiler does not know: what is pure stays pure, `unsafe` stays in its room, crates depend
//! on each other as `docs/ARCHITECTURE.md` says, and what the documents name exists. Reads files, runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Decisions: data in, data out. A name that ends with `/` stands for the folder.
const PURE: &[&str] = &[
    "ztunnel/src/resolve.rs",
    "ztunnel/src/admit.rs",
    "crates/mesh-net/src/proxy_header.rs",
    "crates/mesh-dns/src/resolv.rs",
    "crates/mesh-dns/src/hosts.rs",
    "crates/mesh-dns/src/lookup.rs",
    "crates/mesh-dns/src/held.rs",
    "waypoint/src/upstream/guard.rs",
    "ztunnel/src/why.rs",
    "ztunnel/src/dump.rs",
    "ztunnel/src/enroll/mod.rs",
    "ztunnel/src/dns/answer.rs",
    "ztunnel/src/dns/names.rs",
    "crates/mesh-model/src/balance.rs",
    "crates/mesh-model/src/directory.rs",
    "crates/mesh-policy/src/",
    "crates/mesh-hbone/src/ledger.rs",
    "crates/mesh-hbone/src/connect.rs",
    "crates/mesh-identity/src/rotation.rs",
    "crates/mesh-identity/src/derived.rs",
    "crates/mesh-xds/src/delta.rs",
    "crates/mesh-xds/src/push.rs",
    "crates/mesh-xds/src/wire/",
    "cni/src/redirect.rs",
    "cni/src/pod.rs",
    "cni/src/host.rs",
    "cni/src/machine.rs",
    "cni/src/conflist.rs",
    "cni/src/kubernetes/decide.rs",
    "cni/src/plugin/call.rs",
    "istiod-lite/src/translate/",
    "istiod-lite/src/cluster/scope.rs",
    "istiod-lite/src/ca/rotation.rs",
    "istiod-lite/src/ca/stored.rs",
    "istiod-lite/src/status/plan.rs",
    "istiod-lite/src/status/due.rs",
    "istiod-lite/src/watch/kubernetes/held.rs",
    "istiod-lite/src/objects/stand_in.rs",
    "istiod-lite/src/objects/material.rs",
    "istiod-lite/src/admission/review.rs",
    "istiod-lite/src/admission/check.rs",
    "istiod-lite/src/admission/check/waypoints.rs",
    "istiod-lite/src/cluster/attach.rs",
    "istiod-lite/src/cluster/shelves.rs",
    "istiod-lite/src/objects/duration.rs",
    "istiod-lite/src/gateways/plan.rs",
    "istiod-lite/src/gateways/template.rs",
    "istiod-lite/src/gateways/overlay.rs",
    "istiod-lite/src/gateways/status.rs",
    "istiod-lite/src/gateways/seen.rs",
    "isthmus/src/waypoint/gateway.rs",
    "isthmus/src/plan.rs",
    "isthmus/src/cluster/check.rs",
    "isthmus/src/cluster/facts.rs",
    "isthmus/src/report/cluster.rs",
    "isthmus/src/report/daemon.rs",
    "isthmus/src/report/machine.rs",
    "isthmus/src/view/fit.rs",
    "waypoint/src/arrive.rs",
    "waypoint/src/detect/sniff.rs",
    "waypoint/src/detect/hello.rs",
    "waypoint/src/upstream/endpoint.rs",
    "waypoint/src/upstream/hops.rs",
    "waypoint/src/settings/binding.rs",
    "waypoint/src/settings/policies.rs",
    "waypoint/src/settings/resource.rs",
    "waypoint/src/settings/host.rs",
    "waypoint/src/settings/dump.rs",
    "waypoint/src/settings/why.rs",
    "waypoint/src/settings/file.rs",
    "waypoint/src/settings/file/address.rs",
    "waypoint/src/authorize.rs",
    "waypoint/src/authorize/",
    "waypoint/src/jwt/rule.rs",
    "waypoint/src/jwt/url.rs",
    "waypoint/src/jwt/place.rs",
    "waypoint/src/jwt/jwks.rs",
    "waypoint/src/jwt/token.rs",
    "waypoint/src/jwt/judge.rs",
    "waypoint/src/jwt/held.rs",
    "waypoint/src/ext_authz/names.rs",
    "waypoint/src/ext_authz/edits.rs",
    "waypoint/src/ext_authz/over_http.rs",
    "waypoint/src/ext_authz/over_grpc.rs",
    "waypoint/src/route.rs",
    "waypoint/src/route/",
    "waypoint/src/edit.rs",
    "waypoint/src/edit/",
    "waypoint/src/choose.rs",
    "waypoint/src/choose/",
    "waypoint/src/retry.rs",
    "waypoint/src/retry/",
    "waypoint/src/fault.rs",
    "waypoint/src/account/cel.rs",
    "waypoint/src/account/cel/",
    "waypoint/src/account/format.rs",
    "waypoint/src/account/format/",
    "waypoint/src/account/plan.rs",
    "waypoint/src/account/trace.rs",
    "waypoint/src/account/trace/",
    "waypoint/src/account/told.rs",
    "waypoint/src/account/view.rs",
];

/// What a decision may not reach for, and what is there instead.
const IMPURE: [(&str, &str); 8] = [
    ("async", "a decision says what it lacks; its caller waits"),
    ("tokio", "the runtime is the shell's"),
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
    ("rand::rng", "chance is an argument"),
    ("rand::random", "chance is an argument"),
    ("std::env", "settings are arguments"),
    ("std::fs", "the caller reads files"),
];

/// Files of Rust, tests among them.
fn sources() -> Vec<Source> {
    files("rs").into_iter().map(|(name, text)| Source { name, text }).collect()
}

struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Lines of code: no comments, no text within quotes, and nothing of a test module at the end of the file.
    fn code(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        let end = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        self.text[..end].lines().enumerate().map(|(at, line)| (at + 1, without_words(line)))
    }

    fn is_test(&self) -> bool {
        self.name.ends_with("/tests.rs") || self.name.contains("/tests/") || self.name.contains("/testing.rs")
    }
}

/// A line without its comment and its text in quotes. Good enough for lines that `rustfmt` wrote.
fn without_words(line: &str) -> String {
    let mut code = String::new();
    let mut quoted = false;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if !quoted && line[at..].starts_with("//") {
            break;
        }
        if c == '"' && before != '\\' && before != '\'' {
            quoted = !quoted;
        } else if !quoted {
            code.push(c);
        }
        before = c;
    }
    code
}

/// Whether `word` stands in `line` by itself, not as a part of another name.
fn says(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(part) && !line[at + word.len()..].chars().next().is_some_and(part)
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace").to_owned()
}

/// Every file with this ending and its text; paths are relative to the workspace.
fn files(ending: &str) -> BTreeMap<String, String> {
    let root = root();
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else if name.ends_with(&format!(".{ending}")) {
                let shown = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                // A file that is being written this moment may be gone again.
                found.extend(fs::read_to_string(&path).ok().map(|text| (shown, text)));
            }
        }
    }
    found
}

/// The version that programs say is the one that the chart asks images for, `helm test` compares, and the sample names.
#[test]
fn one_version_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let mut complaints = Vec::new();
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let chart = read("charts/isthmus/Chart.yaml");
    for key in ["version", "appVersion"] {
        if !chart.lines().any(|line| line == format!("{key}: {version}")) {
            complaints.push(format!("charts/isthmus/Chart.yaml: {key} is not {version}"));
        }
    }
    for (name, text) in files("yaml").into_iter().filter(|(name, _)| name.starts_with("e2e/sample/")) {
        let images = text.lines().filter_map(|line| line.trim().strip_prefix("image: "));
        complaints.extend(images.filter(|image| !image.ends_with(&format!(":{version}"))).map(|image| format!("{name}: {image} is not of version {version}")));
    }
    none(&complaints);
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn decisions_are_pure() {
    let sources = sources();
    let mut complaints = Vec::new();
    for pure in PURE.iter().copied() {
        let within =
            |source: &&Source| !source.is_test() && (source.name == pure || pure.ends_with('/') && source.name.starts_with(pure));
        let mut files = sources.iter().filter(within).peekable();
        assert!(files.peek().is_some(), "{pure} is in the list of pure files and does not exist");
        for source in files {
            for (at, line) in source.code() {
                let caught = IMPURE.iter().filter(|(word, _)| says(&line, word));
                complaints
                    .extend(caught.map(|(word, instead)| format!("{}:{at}: `{word}` in a decision: {instead}", source.name)));
            }
        }
    }
    none(&complaints);
}

#[test]
fn unsafe_code_stays_in_mesh_net() {
    let outside = sources().into_iter().filter(|source| !source.name.starts_with("crates/mesh-net/"));
    let mut complaints = Vec::new();
    for source in outside {
        let caught = source.text.lines().enumerate().filter(|(_, line)| {
            let code = without_words(line);
            says(&code, "unsafe") || code.contains("(unsafe_code)")
        });
        complaints.extend(caught.map(|(at, _)| format!("{}:{}: unsafe code is mesh-net's alone", source.name, at + 1)));
    }
    // Each crate takes the workspace's lints, among which `unsafe_code` is denied.
    for (name, text) in manifests() {
        if !text.contains("[lints]\nworkspace = true") {
            complaints.push(format!("{name}: without `[lints] workspace = true` the rules of the workspace do not hold here"));
        }
    }
    none(&complaints);
}

/// Each crate's own manifest.
fn manifests() -> BTreeMap<String, String> {
    files("toml").into_iter().filter(|(name, _)| name.ends_with("/Cargo.toml") && !name.starts_with("fuzz/")).collect()
}

/// The crates of ours that a section of a manifest names.
fn ours(manifest: &str, section: &str, all: &BTreeSet<String>) -> BTreeSet<String> {
    let lines = manifest.lines().skip_while(|line| line.trim() != section).skip(1).take_while(|line| !line.starts_with('['));
    let name = |line: &str| line.split(['.', '=', ' ']).next().unwrap_or_default().to_owned();
    lines.map(name).filter(|name| all.contains(name)).collect()
}

/// The table of `docs/ARCHITECTURE.md` under "Who depends on whom": row of the picture, and dependencies.
fn told_dependencies() -> BTreeMap<String, (u32, BTreeSet<String>)> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md");
    let part = text.split("## Who depends on whom").nth(1).expect("docs/ARCHITECTURE.md has the section \"Who depends on whom\"");
    let part = part.split("\n## ").next().expect("a split has a first part");
    let mut told = BTreeMap::new();
    for line in part.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, row, name, dependencies, ..] = cells[..] else { continue };
        let Ok(row) = row.parse() else { continue };
        let names =
            dependencies.split([',', ' ']).map(|name| name.trim_matches('`')).filter(|name| !name.is_empty() && *name != "–");
        told.insert(name.trim_matches('`').to_owned(), (row, names.map(str::to_owned).collect()));
    }
    told
}

#[test]
fn crates_depend_on_each_other_as_the_architecture_says() {
    let told = told_dependencies();
    let manifests = manifests();
    let package = |text: &str| {
        let name = text.lines().find_map(|line| line.strip_prefix("name = "));
        name.map(|name| name.trim_matches('"').to_owned()).expect("a manifest names its package")
    };
    let all: BTreeSet<String> = manifests.values().map(|text| package(text)).collect();
    assert_eq!(all, told.keys().cloned().collect(), "the table of docs/ARCHITECTURE.md has a line for each crate");
    let mut complaints = Vec::new();
    for text in manifests.values() {
        let name = package(text);
        let (row, dependencies) = &told[&name];
        let mut found = ours(text, "[dependencies]", &all);
        if name == "e2e" {
            found.extend(ours(text, "[dev-dependencies]", &all));
        }
        if &found != dependencies {
            complaints.push(format!("{name} depends on {found:?}, docs/ARCHITECTURE.md says {dependencies:?}"));
        }
        let higher = found.iter().filter(|other| told[*other].0 >= *row);
        complaints.extend(higher.map(|other| format!("{name} depends on {other}, which is not in a lower row")));
        if name != "e2e" && found.contains("mesh-sim") {
            complaints.push(format!("{name} depends on mesh-sim, which is for tests"));
        }
    }
    none(&complaints);
}

/// Each outside crate of weight enters at one door: `deny.toml` names who may use it, and our manifests keep to it.
#[test]
fn outside_crates_enter_at_their_doors() {
    let deny = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let between = |line: &str, from: &str, to: &str| Some(line.split_once(from)?.1.split_once(to)?.0.to_owned());
    let mut doors = BTreeMap::new();
    for line in deny.lines().filter(|line| line.trim_start().starts_with("{ crate = ")) {
        let name = between(line, "crate = \"", "\"").expect("a ban names a crate");
        let wrappers = between(line, "wrappers = [", "]").unwrap_or_default();
        let wrappers: BTreeSet<String> = wrappers.split(',').map(|name| name.trim().trim_matches('"').to_owned()).collect();
        doors.insert(name, wrappers);
    }
    assert!(doors.len() > 10, "deny.toml was not read");
    let all = doors.keys().cloned().collect();
    let mut complaints = Vec::new();
    for (manifest, text) in manifests() {
        let name = between(&text, "name = \"", "\"").expect("a manifest names its package");
        for section in ["[dependencies]", "[dev-dependencies]", "[build-dependencies]"] {
            let used = ours(&text, section, &all);
            let strange = used.iter().filter(|used| !doors[*used].contains(&name));
            complaints.extend(strange.map(|used| format!("{manifest}: {used} is not for {name}: see deny.toml")));
        }
    }
    none(&complaints);
}

// V-70: versions below these have known holes (spec/reliability.md 3.4).
#[test]
fn libraries_are_newer_than_their_known_holes() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let number = |text: &str| text.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u64>>();
    let mut complaints = Vec::new();
    for (name, least) in
        [("h2", "0.4.16"), ("rustls", "0.23.46"), ("rustls-webpki", "0.103.13"), ("hickory-proto", "0.26.2"), ("aws-lc-sys", "0.39.0"), ("tonic", "0.12.3")]
    {
        let versions: Vec<&str> =
            lock.split("[[package]]").filter(|package| package.contains(&format!("\nname = \"{name}\"\n"))).filter_map(|package| package.split("version = \"").nth(1)?.split('"').next()).collect();
        if versions.is_empty() {
            complaints.push(format!("Cargo.lock: {name} is not there: take it out of this table"));
        }
        complaints.extend(versions.iter().filter(|version| number(version) < number(least)).map(|version| format!("Cargo.lock: {name} {version} is older than {least}")));
    }
    none(&complaints);
}

#[test]
fn a_file_says_what_it_holds() {
    // `tests.rs` says it by its name.
    let silent = sources().into_iter().filter(|source| !source.name.ends_with("/tests.rs") && !source.text.starts_with("//!"));
    none(
        &silent
            .map(|source| format!("{}: opens without `//!`: say what lives here, and what does not", source.name))
            .collect::<Vec<_>>(),
    );
}

/// The documents that people read, by their path.
fn documents() -> BTreeMap<String, String> {
    files("md").into_iter().filter(|(name, _)| !name.contains("/src/")).collect()
}

/// What stands between single backquotes, outside of blocks of code.
fn quoted(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, part) in document.split("\n```").enumerate() {
        if number % 2 == 0 {
            let spans = part.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
            found.extend(spans.map(str::to_owned));
        }
    }
    found
}

#[test]
fn what_the_documents_name_exists() {
    let sources = sources();
    let others: BTreeMap<String, String> = ["sh", "toml", "yaml", "md", "txt"].into_iter().flat_map(files).collect();
    let paths: Vec<&str> = sources.iter().map(|source| source.name.as_str()).chain(others.keys().map(String::as_str)).collect();
    let scripts: String = others.iter().filter(|(name, _)| !name.ends_with(".md")).map(|(_, text)| text.as_str()).collect();
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap_or_default();
    let mut complaints = Vec::new();
    for (document, text) in documents() {
        for word in quoted(&text) {
            // A file: by its whole path or by the end of it. The contracts of the wire (spec/) are kept elsewhere.
            let file = word.split(':').next().unwrap_or_default();
            let is_file =
                [".rs", ".sh", ".toml", ".md"].iter().any(|end| file.ends_with(end)) && !file.contains([' ', '*', '{', '<']);
            let known = paths.iter().any(|path| *path == file || path.ends_with(&format!("/{file}")));
            if is_file && !file.starts_with("spec/") && !known {
                complaints.push(format!("{document}: there is no file `{file}`"));
            }
            // A constant or a setting.
            let shouted = word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            let known =
                || sources.iter().any(|source| says(&source.text, &word)) || says(&scripts, &word) || says(&makefile, &word);
            if shouted && !known() {
                complaints.push(format!("{document}: nothing is called `{word}`"));
            }
            // A target of make.
            if let Some(target) = word.strip_prefix("make ")
                && !target.contains([' ', '=', '<'])
                && !makefile.lines().any(|line| line.starts_with(&format!("{target}:")))
            {
                complaints.push(format!("{document}: the Makefile has no `{word}`"));
            }
        }
        complaints.extend(broken_links(&document, &text));
    }
    none(&complaints);
}

/// Links to files that are not there.
fn broken_links(document: &str, text: &str) -> Vec<String> {
    let folder = root().join(document).parent().expect("a document lies in a folder").to_owned();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    let lost = local.filter(|target| !folder.join(target.split('#').next().unwrap_or_default()).exists());
    lost.map(|target| format!("{document}: the link to {target} leads nowhere")).collect()
}

/// The table of limits says in which file each bound lives, and it is there.
#[test]
fn limits_live_where_the_architecture_says() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md");
    let part = text.split("### Limits").nth(1).expect("docs/ARCHITECTURE.md has the section \"Limits\"");
    let part = part.split("\n##").next().expect("a split has a first part");
    let mut seen = 0;
    let mut complaints = Vec::new();
    for line in part.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, _, _, name, file, _] = cells[..] else { continue };
        let (Some(name), Some(file)) = (quoted(name).pop(), quoted(file).pop()) else { continue };
        seen += 1;
        let source = fs::read_to_string(root().join(&file)).unwrap_or_default();
        if !says(&source, &name) {
            complaints.push(format!("docs/ARCHITECTURE.md: `{name}` is not in {file}"));
        }
    }
    assert!(seen > 20, "the table of limits was not read: only {seen} lines");
    none(&complaints);
}

/// The page of what is honoured names tests, and they are there.
#[test]
fn tests_that_show_a_rule_exist() {
    let text = fs::read_to_string(root().join("docs/objects.md")).expect("docs/objects.md");
    let tests: BTreeSet<String> = sources().iter().flat_map(|source| source.text.lines().filter_map(named_function).map(str::to_owned).collect::<Vec<_>>()).collect();
    let named: Vec<String> = quoted(&text).into_iter().filter(|word| word.matches('_').count() > 1 && !word.contains(|c: char| c.is_uppercase())).collect();
    assert!(named.len() > 50, "the page was not read: only {} tests", named.len());
    let missing = named.iter().filter(|name| !tests.contains(*name));
    none(&missing.map(|name| format!("docs/objects.md: there is no test `{name}`")).collect::<Vec<_>>());
}

fn named_function(line: &str) -> Option<&str> {
    line.trim_start().trim_start_matches("async ").strip_prefix("fn ")?.split_once('(').map(|(name, _)| name)
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).expect("README.md").lines().count();
    assert!(lines <= 100, "README.md has {lines} lines; what is more belongs into docs/");
}

#[test]
fn this_file_reads_lines_as_it_should() {
    assert_eq!(without_words("let a = \"async\"; // async"), "let a = ; ");
    assert_eq!(without_words("let quote = '\"'; async"), "let quote = '\"'; async");
    assert!(says("a async b", "async") && !says("asynchronous", "async") && !says("an_async", "async"));
    assert_eq!((named_function("    async fn a_b() {"), named_function("a_b()")), (Some("a_b"), None));
    assert_eq!(quoted("`a` b `c d`\n```\n`not this`\n```\n`e`"), ["a", "c d", "e"]);
    let all = ["mesh-net".to_owned(), "mesh-zds".to_owned()].into();
    let manifest = "[dependencies]\nmesh-net.workspace = true\ntokio.workspace = true\n\n[dev-dependencies]\nmesh-zds = {}\n";
    assert_eq!(ours(manifest, "[dependencies]", &all), ["mesh-net".to_owned()].into());
    assert_eq!(ours(manifest, "[dev-dependencies]", &all), ["mesh-zds".to_owned()].into());
}
