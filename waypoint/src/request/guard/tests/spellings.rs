//! One thing in many spellings (spec/reliability.md V-40 to V-42): whatever a client writes, what policy judges is what
//! is forwarded, and what a server would take for the thing that is denied does not reach it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::page::policy;
use super::*;
use crate::exchange::Version;
use crate::testing::{Site, origins};

/// What the endpoint has seen: the first line and the host, byte for byte.
fn noting(site: &Site) -> Arc<Mutex<Vec<(String, String)>>> {
    let seen = Arc::<Mutex<Vec<(String, String)>>>::default();
    let notes = seen.clone();
    site.endpoints.http("web", Version::Http1, move |request| {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let target = request.uri().path_and_query().unwrap().as_str().to_owned();
        notes.lock().push((format!("{} {target}", request.method()), host));
        async { reply::plain(StatusCode::OK, "here".into()) }
    });
    seen
}

/// The status, and what the endpoint saw.
async fn tried(site: &Site, seen: &Mutex<Vec<(String, String)>>, line: &str, host: &str) -> (u16, Option<(String, String)>) {
    let got = site.bytes(format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(), "no such text").await;
    let status = got.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let seen = std::mem::take(&mut *seen.lock());
    assert!(seen.len() <= 1, "{line}: {seen:?}");
    (status, seen.into_iter().next())
}

/// Ways into a folder and out of it again, however they are written.
const WAYS: [&str; 34] = [
    "/", "//", "///", "/./", "/.//", "/x/../", "/x/..//", "/x/%2e%2e/", "/x/.%2E/", "/%2e/", "/%2E%2e/", "/../", "/../../", "/x//../", "/x/./../", "/%2f",
    "/%2F%2f", "/x%2f..%2f", "/x/..%2f", "/%5c", "/\\", "\\", "/x\\..\\", "/x%5c..%5c", "/;/", "/;x=1/", "/x;y/../", "/x/..;/", "/x/..;y/", "/.;/",
    "/%252e%252e/", "/%c0%ae%c0%ae/", "/%c0%af", "/%e0%80%af",
];

fn spelled(folder: &str) -> Vec<String> {
    let (first, rest) = folder.split_at(1);
    let names = [
        folder.to_owned(),
        format!("%{:02x}{rest}", first.as_bytes()[0]),
        format!("{first}%{:02X}{}", rest.as_bytes()[0], &rest[1..]),
        format!("{folder};x=1"),
        format!("{folder};"),
        format!("{folder}%3bx"),
        format!("{folder}/"),
        format!("{folder}%2f"),
        format!("{folder}\\"),
        format!("{folder}//y"),
        format!("{folder}/./y"),
        format!("{folder}/x/.."),
        format!("{folder}/x/../../{folder}"),
        format!("{folder};.css"),
        format!("{folder}?x=/../.."),
        format!("{folder}#x"),
        format!("{folder}%00"),
        format!("{folder}%23x"),
        format!("{folder}%3fx"),
        folder.to_uppercase(),
    ];
    WAYS.iter().flat_map(|way| names.iter().map(move |name| format!("{way}{name}"))).collect()
}

// V-40
#[tokio::test]
async fn what_is_denied_is_denied_in_each_spelling() {
    let corpus = spelled("admin");
    assert!(corpus.len() >= 300);
    for mode in ["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"] {
        let mut site = Site::new(Version::Http1);
        let seen = noting(&site);
        normalize(&mut site, mode);
        policy(&mut site, "deny", "action: DENY\nrules: [{to: [{paths: ['/admin', '/admin/*']}]}]");
        let (mut denied, mut forwarded) = (0, Vec::new());
        for path in &corpus {
            match tried(&site, &seen, &format!("GET {path}"), "web").await {
                (403, None) => denied += 1,
                (400, None) => {}
                (200, Some((line, _))) => {
                    let target = line.strip_prefix("GET ").unwrap().to_owned();
                    assert_eq!(origins::serving(&target, "/admin"), None, "{mode}: {path} is forwarded as {target}");
                    forwarded.push((path, target));
                }
                other => panic!("{mode}: {path}: {other:?}"),
            }
        }
        // It would be easy to refuse everything, or nothing.
        assert!(denied > 200 && forwarded.len() > 20, "{mode}: {denied} {}", forwarded.len());
        // What was forwarded is what was judged: denied under this very name, it does not come through.
        for (path, target) in forwarded {
            let judged = target.split('?').next().unwrap();
            policy(&mut site, "deny", &format!("action: DENY\nrules: [{{to: [{{paths: ['{judged}']}}]}}]"));
            assert_eq!(tried(&site, &seen, &format!("GET {path}"), "web").await, (403, None), "{mode}: {path} is forwarded as {target}");
        }
    }
}

// V-40: an ALLOW lets nothing out of its folder.
#[tokio::test]
async fn what_is_allowed_leads_nowhere_else() {
    for allowed in ["/public/*", "*.css", "/public/{*}", "/public/{**}"] {
        let mut site = Site::new(Version::Http1);
        let seen = noting(&site);
        policy(&mut site, "allow", &format!("rules: [{{to: [{{paths: ['{allowed}']}}]}}]"));
        let mut forwarded = 0;
        let inside = ["/public/a", "/public/a.css", "/public/b;v=1", "/public/%20"].map(str::to_owned);
        let outside = WAYS.iter().flat_map(|way| ["admin", "admin;.css", "admin;x/..;.css", "admin%3b.css"].map(|name| format!("/public{way}..{way}{name}")));
        for path in inside.into_iter().chain(outside).chain(spelled("admin")) {
            if let (200, Some((line, _))) = tried(&site, &seen, &format!("GET {path}"), "web").await {
                assert_eq!(origins::serving(line.strip_prefix("GET ").unwrap(), "/admin"), None, "{allowed}: {path} is forwarded as {line}");
                forwarded += 1;
            }
        }
        assert!(forwarded > 0, "{allowed}");
    }
}

// V-41
#[tokio::test]
async fn a_host_is_denied_in_each_spelling() {
    let mut site = Site::new(Version::Http1);
    let seen = noting(&site);
    policy(&mut site, "deny", "action: DENY\nrules: [{to: [{hosts: ['admin.x']}]}]");
    for host in ["admin.x", "ADMIN.x", "admin.x:80", "admin.x:8080", "admin.x.", "Admin.X.", "admin.x.:80"] {
        assert_eq!(tried(&site, &seen, "GET /", host).await, (403, None), "{host}");
        assert_eq!(tried(&site, &seen, &format!("GET http://{host}/"), host).await, (403, None), "{host}, with its whole target");
    }
    // What is said twice is said alike, or refused.
    for (target, host, status) in [
        ("http://admin.x/", "web", 400), ("http://web/", "admin.x", 400), ("http://ADMIN.x:80/", "admin.x", 403), ("http://admin.x@web/", "web", 400),
        ("http://web/", "web, admin.x", 400), ("http://web/", "web\r\nHost: admin.x", 400), ("/", "web\r\nHost: admin.x", 400), ("/", "admin.x\r\nHost: web", 400),
        ("/", "admin.x/", 400), ("/", "admin.x@web", 400), ("/", "admin.x\\", 400), ("/", "[admin.x]", 400), ("/", "admin.x:80:80", 400), ("/", "", 400),
    ] {
        assert_eq!(tried(&site, &seen, &format!("GET {target}"), host).await, (status, None), "{target} {host:?}");
    }
    // Another one is no less another one.
    for host in ["web", "xadmin.x", "admin.x.y", "admin.y"] {
        let (status, forwarded) = tried(&site, &seen, "GET /", host).await;
        assert_eq!((status, forwarded.map(|(_, host)| host).as_deref()), (200, Some(host)));
    }
    // HTTP/2 says it in `:authority`.
    let mut client = site.http2().await;
    for host in ["admin.x", "ADMIN.x", "admin.x:80", "admin.x."] {
        let asked = Request::get(format!("http://{host}/")).body(Body::Empty).unwrap();
        assert_eq!(client.send_request(asked).await.unwrap().status(), 403, "{host}");
    }
}

// V-42
#[tokio::test]
async fn a_method_is_denied_in_each_spelling() {
    let mut site = Site::new(Version::Http1);
    let seen = noting(&site);
    policy(&mut site, "deny", "action: DENY\nrules: [{to: [{methods: ['POST', 'DELETE']}]}]");
    for method in ["POST", "post", "PoSt", "DELETE", "delete"] {
        assert_eq!(tried(&site, &seen, &format!("{method} /"), "web").await, (403, None), "{method}");
        let asked = Request::builder().method(method).uri("http://web/").body(Body::Empty).unwrap();
        assert_eq!(site.http2().await.send_request(asked).await.unwrap().status(), 403, "{method}");
    }
    for line in ["POST  /", " POST /", "POST\t/", "P\0OST /", "PO(ST /", "PRI /"] {
        assert_eq!(tried(&site, &seen, line, "web").await, (400, None), "{line:?}");
    }
    for method in ["GET", "get", "POSTS", "M-SEARCH"] {
        let (status, forwarded) = tried(&site, &seen, &format!("{method} /"), "web").await;
        assert_eq!((status, forwarded.map(|(line, _)| line)), (200, Some(format!("{method} /"))));
    }
    policy(&mut site, "allow", "rules: [{to: [{methods: ['GET']}]}]");
    assert_eq!(tried(&site, &seen, "get /", "web").await, (403, None), "what is allowed is what was written");
}

fn normalize(site: &mut Site, mode: &str) {
    let yaml = format!("targets: [{{kind: {{service: {{host: {{namespace: shop, hostname: web.shop.svc.cluster.local}}}}}}}}]\nnormalization: {mode}");
    let message: wire::HttpPolicy = serde_saphyr::from_str(&yaml).unwrap();
    site.put(wire::HTTP_POLICY, "shop/http", &message);
}
