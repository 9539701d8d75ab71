//! The recipes of docs/waypoints.md, as they stand there but for names, under load: from one version to the other, and to
//! each by who asks. Nothing fails when they are applied, changed and taken back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use e2e::{Check, checks};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde_json::json;

use super::cluster::{Cluster, SOON, root, until};
use super::load::{Demand, Load, Report, ask_with};
use super::stand::{BOTH, CALLERS, MESH, SERVERS, Stand, at, in_mesh};
use super::waypoint::{WAYPOINT, label, until_bound, until_through, up};

/// How long a load goes on beside a change, before and after it.
const WHILE: Duration = Duration::from_secs(3);
/// New connections per second of each of two callers.
const RATE: u32 = 50;
const ISSUER: &str = "https://accounts.example";

pub fn checks() -> Vec<Check<Cluster>> {
    checks![from_one_version_to_the_other_at_once, by_a_header, by_a_cookie, by_a_claim]
}

/// Whose objects a recipe is written with.
#[derive(Clone, Copy, Debug)]
enum Api {
    Gateway,
    Istio,
}

const BOTH_APIS: [Api; 2] = [Api::Gateway, Api::Istio];

/// The blocks below a heading of the document, in the stand's names.
fn blocks(heading: &str) -> Result<Vec<String>> {
    let document = std::fs::read_to_string(root().join("docs/waypoints.md"))?;
    let from = document.find(&format!("\n{heading}")).with_context(|| format!("docs/waypoints.md has no {heading:?}"))? + 1 + heading.len();
    let part = &document[from..];
    let part = &part[..part.find("\n##").unwrap_or(part.len())];
    let names = [
        ("namespace: shop", format!("namespace: {MESH}")),
        ("version: v1", format!("app: {}", SERVERS[0])),
        ("version: v2", format!("app: {}", SERVERS[1])),
        ("cart-v1", SERVERS[0].to_owned()),
        ("cart-v2", SERVERS[1].to_owned()),
        ("cart", BOTH.to_owned()),
        ("port: 80", "port: 9080".to_owned()),
        ("number: 80", "number: 9080".to_owned()),
    ];
    // Every other piece between fences is a block.
    let blocks = part.split("\n```").skip(1).step_by(2);
    Ok(blocks.map(|block| names.iter().fold(block.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))).collect())
}

/// The route of a recipe, which is the last block but one for the Gateway API and the last one for Istio's, and one that
/// sends everybody to the other version.
fn recipe(heading: &str, api: Api) -> Result<[String; 2]> {
    let routes = blocks(heading)?;
    let from_behind = match api {
        Api::Gateway => 1,
        Api::Istio => 0,
    };
    let route = routes.iter().rev().nth(from_behind).with_context(|| format!("{heading}: {} blocks", routes.len()))?.clone();
    let other = match api {
        Api::Gateway => swapped(&route, SERVERS[0], SERVERS[1]),
        Api::Istio => swapped(&route, "subset: v1", "subset: v2"),
    };
    ensure!(route != other, "{heading}, {api:?}: nothing says where to");
    Ok([route, other])
}

fn swapped(text: &str, one: &str, other: &str) -> String {
    text.replace(one, "\u{0}").replace(other, one).replace('\u{0}', other)
}

/// What the routes of Istio's refer to: there before them, and there until they are gone.
fn subsets() -> Result<String> {
    blocks("## Recipes")?.into_iter().next().context("no subsets")
}

/// The waypoint is used, and nothing says yet where requests go.
fn begin(cluster: &Cluster) -> Result<Stand<'_>> {
    let stand = up(cluster)?;
    cluster.apply(&subsets()?)?;
    label(cluster, BOTH, Some(WAYPOINT))?;
    until_bound(cluster, BOTH, "True")?;
    until_through(cluster, BOTH)?;
    Ok(stand)
}

fn end(cluster: &Cluster, stand: &Stand<'_>) -> Result<()> {
    cluster.delete(&subsets()?)?;
    label(cluster, BOTH, None)?;
    stand.wait()
}

/// Who asks, as a header says: those of the first are for the first server, those of the second for the second.
type Callers<'a> = [&'a str; 2];

fn load(headers: Callers<'_>) -> Result<Vec<Load>> {
    CALLERS.iter().zip(headers).map(|(from, header)| Load::begin_with(&in_mesh(from), &at(BOTH), header, Demand::fresh(RATE))).collect()
}

/// All answered, and if it is said by whom, by these alone.
fn judge(loads: Vec<Load>, by: Option<[&str; 2]>) -> Result<u64> {
    let reports: Vec<Report> = loads.into_iter().map(Load::end).collect::<Result<_>>()?;
    reports.iter().try_for_each(Report::all_held)?;
    for (report, server) in reports.iter().zip(by.into_iter().flatten()) {
        let (its, all) = report.answered_by(server);
        ensure!(all > 0 && its == all, "{report}: {its} of {all} were answered by {server}: {}", report.said["servers"]);
    }
    Ok(reports.iter().map(Report::ok).sum())
}

/// Until a caller with this header is answered by this server.
fn until_at(cluster: &Cluster, header: &str, server: &str) -> Result<()> {
    until(SOON, &format!("a caller with {header:?} is answered by {server}"), || {
        let said = ask_with(cluster, &in_mesh(CALLERS[0]), &format!("{}:9080", at(BOTH)), header)?;
        ensure!(said.contains(&format!("\"name\":\"{server}\"")), "not yet: {}", said.trim());
        Ok(Some(()))
    })
}

/// Applied, turned around, turned back and taken away under load, looked at in between.
fn try_out(cluster: &Cluster, [route, other]: &[String; 2], headers: Callers<'_>, places: [&str; 2]) -> Result<()> {
    let turned = [places[1], places[0]];
    // Where both groups go to the same version, both go to the other one.
    let turned = if places[0] == places[1] { [SERVERS[1]; 2] } else { turned };
    let (mut beside, mut settled) = (0, 0);
    for (object, places) in [(route, places), (other, turned), (route, places)] {
        let loads = load(headers)?;
        std::thread::park_timeout(WHILE);
        cluster.apply(object)?;
        for (header, server) in headers.iter().zip(places) {
            until_at(cluster, header, server)?;
        }
        std::thread::park_timeout(WHILE);
        beside += judge(loads, None)?;
        let loads = load(headers)?;
        std::thread::park_timeout(WHILE);
        settled += judge(loads, Some(places))?;
    }
    let loads = load(headers)?;
    cluster.delete(route)?;
    std::thread::park_timeout(WHILE);
    beside += judge(loads, None)?;
    println!("    {beside} requests beside four changes, {settled} between them: none failed, none went astray");
    Ok(())
}

fn for_both(cluster: &Cluster, heading: &str, headers: Callers<'_>, places: [&str; 2]) -> Result<()> {
    let stand = begin(cluster)?;
    for api in BOTH_APIS {
        try_out(cluster, &recipe(heading, api)?, headers, places).with_context(|| format!("{api:?}"))?;
    }
    end(cluster, &stand)
}

fn from_one_version_to_the_other_at_once(cluster: &Cluster) -> Result<()> {
    for_both(cluster, "### Red/black", ["x-group: a", "x-group: b"], [SERVERS[0]; 2])
}

fn by_a_header(cluster: &Cluster) -> Result<()> {
    for_both(cluster, "### A/B by a header", ["x-group: a", "x-group: b"], SERVERS)
}

/// And who has none yet gets one, about every other one of each.
fn by_a_cookie(cluster: &Cluster) -> Result<()> {
    let heading = "### A/B by a cookie";
    for_both(cluster, heading, ["cookie: theme=dark; group=a", "cookie: group=b; theme=dark"], SERVERS)?;
    let stand = begin(cluster)?;
    for api in BOTH_APIS {
        let [route, _] = recipe(heading, api)?;
        cluster.apply(&route)?;
        until_at(cluster, "cookie: group=b", SERVERS[1])?;
        let load = Load::begin(&in_mesh(CALLERS[0]), &at(BOTH), Demand::fresh(RATE))?;
        std::thread::park_timeout(WHILE);
        let report = load.end()?;
        report.all_held()?;
        for (server, cookie) in SERVERS.iter().zip(["group=a", "group=b"]) {
            let ((its, all), given) = (report.answered_by(server), report.given(cookie));
            ensure!(its * 10 > all * 3, "{api:?}: {server} had {its} of {all}");
            ensure!(given == its, "{api:?}: {server} answered {its}, {given} were given {cookie}");
        }
        cluster.delete(&route)?;
    }
    end(cluster, &stand)
}

fn by_a_claim(cluster: &Cluster) -> Result<()> {
    let heading = "### A/B by a claim";
    let stand = begin(cluster)?;
    let issuer = Issuer::new()?;
    let tokens = blocks(heading)?.first().context("the issuer")?.replace(&format!("jwksUri: {ISSUER}/keys"), &format!("jwks: '{}'", issuer.keys()));
    ensure!(tokens.contains("jwks: "), "the recipe names no {ISSUER}");
    cluster.apply(&tokens)?;
    let bearer = |group: &str| issuer.token(group).map(|token| format!("authorization: Bearer {token}"));
    let (a, b) = (bearer("a")?, bearer("b")?);
    for api in BOTH_APIS {
        let routes = recipe(heading, api)?;
        try_out(cluster, &routes, [&a, &b], SERVERS).with_context(|| format!("{api:?}"))?;
        // Whoever says it of themselves has not said anything.
        cluster.apply(&routes[0])?;
        until_at(cluster, &b, SERVERS[1])?;
        let loads = load(["x-group: b", "x-other: b"])?;
        std::thread::park_timeout(WHILE);
        judge(loads, Some([SERVERS[0]; 2])).with_context(|| format!("{api:?}: a claim of one's own"))?;
        cluster.delete(&routes[0])?;
    }
    let strange = Issuer::new()?.token("b")?;
    until(SOON, "a token of somebody else is refused", || {
        let asked = ask_with(cluster, &in_mesh(CALLERS[0]), &format!("{}:9080", at(BOTH)), &format!("authorization: Bearer {strange}"));
        Ok(asked.is_err_and(|error| error.to_string().contains("Jwt verification fails")).then_some(()))
    })?;
    cluster.delete(&tokens)?;
    end(cluster, &stand)
}

/// Somebody who signs tokens.
struct Issuer(KeyPair);

impl Issuer {
    fn new() -> Result<Issuer> {
        Ok(Issuer(KeyPair::generate_for(&PKCS_ED25519)?))
    }

    /// RFC 8037.
    fn keys(&self) -> String {
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": BASE64.encode(self.0.der_bytes())}]}).to_string()
    }

    /// Good for as long as a check may take.
    fn token(&self, group: &str) -> Result<String> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let part = |value: serde_json::Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", part(json!({"alg": "EdDSA"})), part(json!({"iss": ISSUER, "sub": "somebody", "group": group, "exp": now + 3600})));
        Ok(format!("{signed}.{}", BASE64.encode(self.0.sign(signed.as_bytes())?)))
    }
}
