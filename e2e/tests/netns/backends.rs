//! Servers that fail, hang, are not there or are replaced, behind the waypoint: what its callers notice of that.

use std::io::{Result as IoResult, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::app::reset_at_close;
use super::faults::Cut;
use super::gate::{BOTH, GATE, HEIR, ONE, apply, at, metric};
use super::mesh::{Applied, Mesh, SOON, until, until_ok};
use super::web::{Client, Exchange, Load, Use, Web, get, serve};
use e2e::{Check, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    checks![
        // It uses up what retries may add at `both`, for ten seconds; the next one is at another service.
        retries_end_when_all_are_down,
        one_alone_that_fails_three_of_ten_is_hardly_noticed,
        one_of_two_that_fails_three_of_ten_is_not_noticed,
        one_that_is_not_there_is_not_noticed,
        one_that_is_cut_off_is_gone_round,
        what_breaks_in_the_middle_is_told_as_broken,
        one_that_fails_is_left_out_and_comes_back,
        a_successor_serves_connections_that_are_open,
    ]
}

/// Requests of a load, on some connections.
const MANY: usize = 2000;
const AT_A_TIME: usize = 8;

/// A server that fails when it is asked for the n-th time, if `fails(n)`; how often it was asked.
fn flaky(mesh: &Mesh, pod: &str, fails: impl Fn(usize) -> bool + Send + Sync + 'static) -> Result<(Web, Arc<AtomicUsize>)> {
    let asked: Arc<AtomicUsize> = Arc::default();
    let (count, name) = (asked.clone(), pod.to_owned());
    let server = serve(mesh, &mesh.pod(pod), 7080, move |exchange: &mut Exchange| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        exchange.say(if fails(nth) { 503 } else { 200 }, &name)
    })?;
    Ok((server, asked))
}

/// Three of ten, without a pattern that a round of endpoints could fall into.
fn three_of_ten(nth: usize) -> bool {
    nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0x3ff < 307
}

/// A route of a service's port 80 to itself, with so many retries of 503.
fn with_retries(mesh: &Mesh, service: &str, attempts: u32) -> Result<Applied> {
    let name = format!("{service}-again");
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: app}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: {service}, port: 80}}]\n  rules:\n  - retry: {{codes: [503], attempts: {attempts}, backoff: 5ms}}\n    \
         backendRefs: [{{name: {service}, port: 80}}]\n"
    );
    apply(mesh, &name, &route, &name)
}

fn with_policy(mesh: &Mesh, service: &str, policy: &str, shows: &str) -> Result<Applied> {
    let name = format!("{service}-policy");
    let rule = format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: app}}\nspec:\n  host: {service}.app.svc.cluster.local\n  trafficPolicy:\n{policy}");
    apply(mesh, &name, &rule, shows)
}

fn one_of_two_that_fails_three_of_ten_is_not_noticed(mesh: &Mesh) -> Result<()> {
    let (_left, asked) = flaky(mesh, "left", three_of_ten)?;
    let (_right, others) = flaky(mesh, "right", |_| false)?;
    let _route = with_retries(mesh, "both", 2)?;
    let tally = Load::of(mesh, "client", at(BOTH, 80), "/", AT_A_TIME, MANY);
    let (asked, others) = (asked.load(Ordering::SeqCst), others.load(Ordering::SeqCst));
    println!("  {tally}; servers were asked {asked} and {others} times");
    ensure!(tally.of(200) * 1000 >= tally.made() * 999, "{tally}");
    ensure!(asked > MANY / 4 && asked + others > MANY, "the failing one was asked {asked} times, all {} times", asked + others);
    Ok(())
}

fn one_alone_that_fails_three_of_ten_is_hardly_noticed(mesh: &Mesh) -> Result<()> {
    let (_right, asked) = flaky(mesh, "right", three_of_ten)?;
    let _route = with_retries(mesh, "one", 7)?;
    // Three of ten again and again are more than a fifth.
    let _policy = with_policy(mesh, "one", "    retryBudget: {percent: 100, minRetryConcurrency: 10}\n", "\"retryBudget\"")?;
    let tally = Load::of(mesh, "client", at(ONE, 80), "/", AT_A_TIME, MANY);
    let asked = asked.load(Ordering::SeqCst);
    println!("  {tally}; the server was asked {asked} times");
    ensure!(tally.of(200) * 1000 >= tally.made() * 999, "{tally}");
    ensure!(asked * 10 > MANY * 13, "the server was asked {asked} times only");
    Ok(())
}

fn retries_end_when_all_are_down(mesh: &Mesh) -> Result<()> {
    let (_left, left) = flaky(mesh, "left", |_| true)?;
    let (_right, right) = flaky(mesh, "right", |_| true)?;
    let _route = with_retries(mesh, "both", 3)?;
    let began = Instant::now();
    let tally = Load::of(mesh, "client", at(BOTH, 80), "/", AT_A_TIME, MANY);
    let seconds = began.elapsed().as_secs_f64();
    let asked = left.load(Ordering::SeqCst) + right.load(Ordering::SeqCst);
    println!("  {tally}; servers were asked {asked} times in {seconds:.1} s");
    ensure!(tally.of(503) == tally.made(), "the servers' own answer is passed on: {tally}");
    let extra = asked.saturating_sub(tally.made()) as f64;
    // A fifth of what was asked, or ten in a second where that is more (docs/ARCHITECTURE.md, Limits): so in the seconds in
    // which the load began and ended, of which it had a part only, ten may be more than a fifth of that part.
    let bound = tally.made() as f64 * 0.2 + 2.0 * 10.0;
    ensure!(extra > 0.0 && extra <= bound, "{extra} retries of {} requests in {seconds:.1} s", tally.made());
    Ok(())
}

/// Nobody listens in `left`: its node refuses, and the other one is asked.
fn one_that_is_not_there_is_not_noticed(mesh: &Mesh) -> Result<()> {
    let (_right, asked) = flaky(mesh, "right", |_| false)?;
    let tally = Load::of(mesh, "client", at(BOTH, 80), "/", 4, 500);
    println!("  {tally}");
    ensure!(tally.of(200) == tally.made() && asked.load(Ordering::SeqCst) >= 500, "{tally}");
    // With nobody at all there is an answer, and soon.
    let began = Instant::now();
    drop(_right);
    let answer = get(mesh, "client", at(ONE, 80), "/")?;
    ensure!(answer.status == 503 && began.elapsed() < Duration::from_secs(2), "{} after {:?}", answer.status, began.elapsed());
    Ok(())
}

/// `right` answers nothing from one moment on, not even that it is gone.
fn one_that_is_cut_off_is_gone_round(mesh: &Mesh) -> Result<()> {
    /// A peer that is silent is given up after 4 s (`TUNNEL_DEAD_AFTER`); a little more for a busy machine.
    const LONGEST: Duration = Duration::from_secs(8);
    let (_left, _) = flaky(mesh, "left", |_| false)?;
    let (_right, cut_off) = flaky(mesh, "right", |_| false)?;
    let _route = with_retries(mesh, "both", 2)?;
    let policy = with_policy(
        mesh,
        "both",
        "    connectionPool: {tcp: {connectTimeout: 500ms}}\n    outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 30s, maxEjectionPercent: 50}\n",
        "\"outlierDetection\"",
    )?;
    Load::of(mesh, "client", at(BOTH, 80), "/", 4, 100);
    let load = Load::begin(mesh, "client", at(BOTH, 80), &["/"], Use::Kept, 4);
    let before = cut_off.load(Ordering::SeqCst);
    until(SOON, "right is asked", || (cut_off.load(Ordering::SeqCst) > before).then_some(()))?;
    let cut = Cut::in_namespace(&mesh.pod("right").netns)?;
    // Each of the four connections may have met it once.
    let made = load.made();
    until(LONGEST * 2, "others are asked instead", || (load.made() > made + 1000).then_some(()))?;
    let tally = load.end();
    println!("  {tally}");
    ensure!(tally.longest < LONGEST && tally.broken == 0, "{tally}");
    let missed = tally.made() - tally.of(200);
    ensure!(missed <= 8, "{missed} requests met the one that is cut off: {tally}");
    drop(cut);
    drop(policy);
    let before = cut_off.load(Ordering::SeqCst);
    until(SOON * 2, "right is asked again", || {
        get(mesh, "client", at(BOTH, 80), "/").ok()?;
        (cut_off.load(Ordering::SeqCst) > before).then_some(())
    })
}

/// What the servers of `what_breaks_in_the_middle` do, by the path.
fn breaking(exchange: &mut Exchange) -> IoResult<()> {
    let path = exchange.path().to_owned();
    let stream = &mut exchange.stream;
    match path.as_str() {
        "/length/reset" | "/length/end" => write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf of it")?,
        "/chunks/reset" | "/chunks/end" => write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhalf \r\n")?,
        "/silence/reset" | "/silence/end" => {}
        _ => return exchange.say(200, "whole"),
    }
    if path.ends_with("reset") {
        reset_at_close(stream).map_err(std::io::Error::other)?;
    }
    // The end of the conversation ends the connection.
    Err(std::io::ErrorKind::ConnectionAborted.into())
}

fn what_breaks_in_the_middle_is_told_as_broken(mesh: &Mesh) -> Result<()> {
    let asked: Arc<AtomicUsize> = Arc::default();
    let count = asked.clone();
    let _server = serve(mesh, &mesh.pod("right"), 7080, move |exchange: &mut Exchange| {
        count.fetch_add(1, Ordering::SeqCst);
        breaking(exchange)
    })?;
    for path in ["/length/reset", "/length/end", "/chunks/reset", "/chunks/end"] {
        let mut client = Client::dial(mesh, "client", at(ONE, 80))?;
        client.ask("GET", path, "")?;
        // A reset may overtake what was said before it: then there is no answer of the server at all.
        let answer = client.answer();
        ensure!(answer.as_ref().map_or(true, |answer| answer.status == 503), "{path}: half an answer is told as a whole one: {answer:?}");
    }
    for path in ["/silence/reset", "/silence/end"] {
        let mut client = Client::dial(mesh, "client", at(ONE, 80))?;
        // So that there is a connection to the server that is not about to end.
        client.get("/")?;
        let before = asked.load(Ordering::SeqCst);
        let answer = client.post(path, "effect")?;
        ensure!((500..=504).contains(&answer.status), "{path}: {}", answer.status);
        // It may have had an effect, and is not done twice.
        ensure!(asked.load(Ordering::SeqCst) - before == 1, "{path} was asked {} times", asked.load(Ordering::SeqCst) - before);
        // The client's connection lives on.
        let whole = client.get("/")?;
        ensure!(whole.text() == "whole", "{path}: {}", whole.text());
    }
    Ok(())
}

fn one_that_fails_is_left_out_and_comes_back(mesh: &Mesh) -> Result<()> {
    let ill = Arc::new(AtomicBool::new(true));
    let (is_ill, base) = (ill.clone(), Duration::from_secs(2));
    let (_left, asked) = flaky(mesh, "left", move |_| is_ill.load(Ordering::SeqCst))?;
    let (_right, _) = flaky(mesh, "right", |_| false)?;
    let _policy = with_policy(
        mesh,
        "both",
        "    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 50}\n",
        "\"outlierDetection\"",
    )?;
    let mut client = Client::dial(mesh, "client", at(BOTH, 80))?;
    until(SOON, "left has failed three times", || {
        client.get("/").ok()?;
        (asked.load(Ordering::SeqCst) >= 3).then_some(())
    })?;
    let ejected = Instant::now();
    ill.store(false, Ordering::SeqCst);
    let mut statuses = Vec::new();
    while ejected.elapsed() < base / 2 {
        statuses.push(client.get("/")?.status);
    }
    ensure!(asked.load(Ordering::SeqCst) == 3 && statuses.iter().all(|status| *status == 200), "left was asked {} times while it was left out", asked.load(Ordering::SeqCst));
    until(SOON, "left is asked again", || {
        let answer = client.get("/").ok()?;
        (answer.text() == "left").then_some(())
    })?;
    let back = ejected.elapsed();
    println!("  {} requests went to the other one; it was asked again after {:.1} s", statuses.len(), back.as_secs_f32());
    ensure!(back >= base - Duration::from_millis(200), "it came back after {back:?}");
    let shown = metric(mesh, GATE, "istio_requests_total", &["destination_service_name=\"both\"", "response_code=\"503\""])?;
    ensure!(shown >= 3.0, "failures of the server are counted: {shown}");
    Ok(())
}

fn heir(generation: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: heir, namespace: app, labels: {{app: heir}}}}\nspec:\n  nodeName: node-2\n  serviceAccountName: heir\n  containers:\n  \
         - {{name: heir, command: [sleep, infinity], env: [{{name: GENERATION, value: '{generation}'}}]}}\n"
    )
}

/// A pod that takes the place of another, at another address, with a connection of a client open all the time.
fn a_successor_serves_connections_that_are_open(mesh: &Mesh) -> Result<()> {
    let running = |besides: &str| {
        let pod = mesh.state().pod("heir").ok()?.clone();
        (pod.init.is_some_and(|init| init.is_alive()) && pod.uid != besides).then_some(pod)
    };
    let file = mesh.apply("71-heir.yaml", &heir(1))?;
    let first = until(SOON * 2, "the first one runs", || running(""))?;
    let _first = serve(mesh, &first, 7080, |exchange: &mut Exchange| exchange.say(200, "first"))?;
    until_ok(SOON, || {
        let answer = get(mesh, "client", at(HEIR, 80), "/")?;
        ensure!(answer.text() == "first", "{}", answer.text());
        Ok(())
    })?;
    let mut client = Client::dial(mesh, "client", at(HEIR, 80))?;
    ensure!(client.get("/")?.text() == "first");
    file.change(&heir(2))?;
    let second = until(SOON * 3, "the second one runs", || running(&first.uid))?;
    let _second = serve(mesh, &second, 7080, |exchange: &mut Exchange| exchange.say(200, "second"))?;
    let began = Instant::now();
    let mut others = 0;
    loop {
        let answer = client.get("/").context("the client's own connection stays open")?;
        match (answer.status, answer.text().as_str()) {
            (200, "second") => break,
            (503, _) if began.elapsed() < SOON => others += 1,
            (status, text) => anyhow::bail!("after {:?}: {status} {text}", began.elapsed()),
        }
    }
    println!("  {others} answers of the waypoint's own in {:.2} s, then the successor's", began.elapsed().as_secs_f32());
    ensure!((0..20).all(|_| client.get("/").is_ok_and(|answer| answer.text() == "second")), "the successor serves from then on");
    Ok(())
}
