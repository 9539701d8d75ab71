//! Instances of the waypoint that are replaced, leave and are killed while requests are made: none is lost where an end is
//! announced, and none ever goes past a policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::gate::{BOTH, GATE, apply, at, knows, process, until_serving};
use super::mesh::{Mesh, SOON, until, until_ok, v4};
use super::web::{Client, Exchange, Load, Use, get, serve};
use e2e::{Check, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    checks![no_request_is_lost_while_instances_are_replaced, nothing_passes_while_instances_are_killed]
}

/// Requests while instances are replaced: all that is promised, or as many as there is time for.
const REQUESTS_FULL: usize = 30_000;
const REQUESTS: usize = 5_000;
/// A pod stops for 3 s at most, another one starts, learns what it serves, and is heard of.
const REPLACED_WITHIN: Duration = Duration::from_secs(30);
/// How often both instances are killed.
const KILLS: usize = 3;

/// The second instance. `isthmus up` runs the mesh's own program in a pod with these labels.
const OTHER: &str = "gate-2";

/// An instance as it is made for the Gateway; another generation is another pod.
fn instance(name: &str, generation: usize) -> String {
    let node = if name == GATE { "node-1" } else { "node-2" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: app\n  labels:\n    gateway.networking.k8s.io/gateway-name: gate\n    gateway.networking.k8s.io/gateway-class-name: istio-waypoint\n    \
         gateway.istio.io/managed: istio.io-mesh-controller\n    istio.io/dataplane-mode: none\n    service.istio.io/canonical-name: gate\n\
         spec:\n  nodeName: {node}\n  serviceAccountName: gate\n  containers:\n  - {{name: istio-proxy, command: [sleep, infinity], env: [{{name: GENERATION, value: '{generation}'}}]}}\n"
    )
}

fn uid(mesh: &Mesh, name: &str) -> Option<String> {
    Some(mesh.state().pod(name).ok()?.uid.clone())
}

/// Waits until the pod of an instance is another one than `before`, and serves.
fn replaced(mesh: &Mesh, name: &str, before: Option<&str>) -> Result<()> {
    until(REPLACED_WITHIN, &format!("{name} is another pod"), || uid(mesh, name).filter(|now| Some(now.as_str()) != before).map(drop))?;
    until_serving(mesh, name, REPLACED_WITHIN)
}

// F-45 (2 to 1), F-46
fn no_request_is_lost_while_instances_are_replaced(mesh: &Mesh) -> Result<()> {
    let _servers = [
        serve(mesh, &mesh.pod("left"), 7080, |exchange: &mut Exchange| exchange.say(200, "left"))?,
        serve(mesh, &mesh.pod("right"), 7080, |exchange: &mut Exchange| exchange.say(200, "right"))?,
    ];
    let second = mesh.apply("72-gate-2.yaml", &instance(OTHER, 0))?;
    replaced(mesh, OTHER, None)?;
    let loads = [("client", Use::Kept), ("other", Use::Kept), ("client", Use::Fresh), ("other", Use::Fresh)].map(|(from, how)| Load::begin(mesh, from, at(BOTH, 80), &["/"], how, 2));
    let made = || loads.iter().map(Load::made).sum::<usize>();
    let least = if e2e::is_full() { REQUESTS_FULL } else { REQUESTS };
    let mut turns = 0;
    let change = (|| {
        let first = mesh.apply("73-gate-1.yaml", &instance(GATE, 0));
        let first = first.and_then(|file| replaced(mesh, GATE, None).map(|()| file))?;
        while turns == 0 || made() < least {
            turns += 1;
            for (file, name) in [(&first, GATE), (&second, OTHER)] {
                let before = uid(mesh, name);
                file.change(&instance(name, turns))?;
                replaced(mesh, name, before.as_deref())?;
            }
        }
        // From two to one, the one that stays being replaced once more by the one that is made for the Gateway.
        let before = uid(mesh, GATE);
        drop(first);
        replaced(mesh, GATE, before.as_deref())?;
        drop(second);
        until(REPLACED_WITHIN, "the second instance is gone", || uid(mesh, OTHER).is_none().then_some(()))
    })();
    let tallies = loads.map(Load::end);
    tallies.iter().for_each(|tally| println!("  {tally}"));
    change?;
    let all: usize = tallies.iter().map(|tally| tally.made()).sum();
    let lost: usize = tallies.iter().map(|tally| tally.made() - tally.of(200)).sum();
    println!("  {lost} of {all} requests were lost while instances were replaced {} times", turns * 2 + 3);
    ensure!(lost == 0 && all >= least, "{lost} of {all} requests were lost");
    Ok(())
}

const NO_SECRETS: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: app}
spec:
  targetRefs: [{group: '', kind: Service, name: both}]
  action: DENY
  rules:
  - to:
    - operation: {paths: [/secret]}
";

// F-45 (2 to 0 to 2)
fn nothing_passes_while_instances_are_killed(mesh: &Mesh) -> Result<()> {
    let (secrets, told): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let answers = || {
        let (secrets, told) = (secrets.clone(), told.clone());
        move |exchange: &mut Exchange| {
            let counter = if exchange.path() == "/secret" { &secrets } else { &told };
            counter.fetch_add(1, Ordering::SeqCst);
            exchange.say(200, "told")
        }
    };
    let (left, right) = (mesh.pod("left"), mesh.pod("right"));
    let _servers = [serve(mesh, &left, 7080, answers())?, serve(mesh, &right, 7080, answers())?];
    let second = mesh.apply("72-gate-2.yaml", &instance(OTHER, 0))?;
    replaced(mesh, OTHER, None)?;
    let policy = apply(mesh, "no-secrets", NO_SECRETS, "no-secrets")?;
    until(SOON, "the second instance has heard of it", || knows(mesh, OTHER, "no-secrets"))?;
    until(SOON, "left is closed to callers of its own address", || get(mesh, "client", v4(&left, 7080), "/").is_err().then_some(()))?;
    until(SOON, "right is closed to those in the clear", || get(mesh, "stranger", v4(&right, 7080), "/").is_err().then_some(()))?;
    until(SOON, "the policy refuses", || (get(mesh, "client", at(BOTH, 80), "/secret").ok()?.status == 403).then_some(()))?;
    secrets.store(0, Ordering::SeqCst);
    // What a caller of the mesh dials at `right` itself goes through the waypoint too, where a policy for a service is none.
    let denied = [("client", at(BOTH, 80)), ("other", at(BOTH, 80)), ("client", v4(&left, 7080)), ("stranger", v4(&right, 7080)), ("stranger", v4(&left, 7080))];
    let denied = denied.map(|(from, to)| Load::begin(mesh, from, to, &["/secret"], Use::Fresh, 1));
    let allowed = Load::begin(mesh, "client", at(BOTH, 80), &["/"], Use::Fresh, 2);
    let mut back = Vec::new();
    let killed = (|| {
        for _ in 0..KILLS {
            let processes = [GATE, OTHER].map(|name| process(mesh, name));
            let [Some(first), Some(other)] = processes else { anyhow::bail!("both instances run: {processes:?}") };
            [first, other].iter().for_each(|process| process.signal(Signal::SIGKILL));
            until(SOON, "both are gone", || (!first.is_alive() && !other.is_alive()).then_some(()))?;
            ensure!(get(mesh, "client", at(BOTH, 80), "/").map_or(true, |answer| answer.status != 200), "without an instance a request was answered");
            for (name, before) in [(GATE, first), (OTHER, other)] {
                until(REPLACED_WITHIN, &format!("{name} runs again"), || process(mesh, name).filter(|now| *now != before).map(drop))?;
                until_serving(mesh, name, REPLACED_WITHIN)?;
            }
            let took = until_ok(SOON, || {
                let answer = get(mesh, "client", at(BOTH, 80), "/")?;
                ensure!(answer.status == 200, "{}", answer.status);
                Ok(())
            })?;
            back.push(took);
            let (until_now, began) = (allowed.made(), Instant::now());
            until(SOON, "requests are made again", || (allowed.made() > until_now + 50).then_some(())).with_context(|| format!("{:?}", began.elapsed()))?;
        }
        Ok(())
    })();
    let denied = denied.map(Load::end);
    let allowed = allowed.end();
    denied.iter().for_each(|tally| println!("  refused: {tally}"));
    println!("  allowed: {allowed}; answered {back:?} after both were ready again");
    killed?;
    let passed: usize = denied.iter().map(|tally| tally.of(200)).sum();
    let all: usize = denied.iter().map(|tally| tally.made()).sum();
    ensure!(passed == 0 && secrets.load(Ordering::SeqCst) == 0, "{passed} of {all} requests passed, {} reached a server", secrets.load(Ordering::SeqCst));
    ensure!(allowed.of(200) > 0 && allowed.of(200) < allowed.made(), "there was a time without a waypoint: {allowed}");
    ensure!(told.load(Ordering::SeqCst) >= allowed.of(200));
    ensure!(back.iter().all(|took| *took < Duration::from_secs(1)), "answered again {back:?} after it was ready");
    drop(policy);
    drop(second);
    until(REPLACED_WITHIN, "the second instance is gone", || uid(mesh, OTHER).is_none().then_some(()))?;
    // Those who come after this find all as it was.
    until(SOON, "pods are open again", || get(mesh, "client", v4(&left, 7080), "/").is_ok().then_some(()))?;
    Client::dial(mesh, "client", at(BOTH, 80)).map(drop)
}
