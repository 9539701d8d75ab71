//! Wrong objects and noise: refused with a hint, or told in the object's status within two seconds, and nobody else
//! notices.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{Check, Outcome, checks};
use isthmus::lab::netns;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use serde_json::{Value, json};

use super::cluster::{Cluster, switch, text};
use super::load::{Demand, Report, under_load, until_answered, until_refused};
use super::mesh::parts;
use super::stand::{CALLERS, MESH, SERVERS, Stand, at, in_mesh};

/// What is promised.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
const OBJECTS_MIN: usize = 100;

pub fn checks() -> Vec<Check<Cluster>> {
    let mut checks = checks![wrong_objects_are_refused_or_told_of];
    checks.push(Check { name: "noise_on_the_controllers_ports_changes_nothing", run: noise_on_the_controllers_ports_changes_nothing, known: None });
    checks
}

/// A kind, and a spec with something wrong in it.
fn wrong() -> Vec<(&'static str, Value)> {
    let mut wrong = Vec::new();
    let mut authorization = |rule: Value| wrong.push(("AuthorizationPolicy", json!({"action": "ALLOW", "rules": [rule]})));
    for range in ["10.0.0.0/33", "300.1.1.1", "::1/129", "10.0.0", "10.0.0.0/-1", "localhost", "10.0.0.0/8/8", ""] {
        authorization(json!({"from": [{"source": {"ipBlocks": [range]}}]}));
        authorization(json!({"from": [{"source": {"notIpBlocks": ["10.0.0.0/8", range]}}]}));
        authorization(json!({"from": [{"source": {"remoteIpBlocks": [range]}}]}));
    }
    for port in ["0", "65536", "-1", "http", "80-90", "8 0", "0x50", "", "99999999999999999999"] {
        authorization(json!({"to": [{"operation": {"ports": [port]}}]}));
        authorization(json!({"to": [{"operation": {"notPorts": ["80", port]}}]}));
    }
    for (key, value) in [("source.principle", "a"), ("request.headers", "a"), ("", "a"), ("destination.port", "x"), ("source.ip", "10.0.0.0/99"), ("connection.sni", "")] {
        authorization(json!({"when": [{"key": key, "values": [value]}]}));
    }
    for rule in [
        json!({"from": [{}]}),
        json!({"to": [{}]}),
        json!({"from": [{"source": {}}]}),
        json!({"to": [{"operation": {}}]}),
        json!({"from": [{"source": {"principals": ["a*b"]}}]}),
        json!({"from": [{"source": {"serviceAccounts": ["a/b/c"]}}]}),
        json!({"from": [{"source": {"principals": "not-a-list"}}]}),
        json!({"from": [{"sauce": {"principals": ["a"]}}]}),
        json!({"when": [{"key": "source.namespace"}]}),
    ] {
        authorization(rule);
    }
    for spec in [
        json!({"action": "BLOCK", "rules": [{}]}),
        json!({"action": "allow", "rules": [{}]}),
        json!({"action": "CUSTOM", "rules": [{}]}),
        json!({"rules": {}}),
        json!({"selector": {"matchLabels": {"a b": "c"}}, "rules": [{}]}),
        json!({"selector": {"matchLabels": {"a": "b"}}, "targetRefs": [{"kind": "Service", "group": "", "name": "x"}], "rules": [{}]}),
        json!({"targetRefs": [{"kind": "Service", "group": "", "name": "no-such-service"}], "rules": [{}]}),
    ] {
        wrong.push(("AuthorizationPolicy", spec));
    }
    for spec in [
        json!({"mtls": {"mode": "ON"}}),
        json!({"mtls": {"mode": "strict"}}),
        json!({"mtls": "STRICT"}),
        json!({"portLevelMtls": {"9080": {"mode": "STRICT"}}}),
        json!({"selector": {"matchLabels": {"app": "a"}}, "portLevelMtls": {"0": {"mode": "STRICT"}}}),
        json!({"selector": {"matchLabels": {"app": "a"}}, "portLevelMtls": {"65536": {"mode": "STRICT"}}}),
        json!({"selector": {"matchLabels": {"app": "a"}}, "portLevelMtls": {"http": {"mode": "STRICT"}}}),
        json!({"selector": {"matchLabels": {"app": "a"}}, "portLevelMtls": {"80": {"mode": "MAYBE"}}}),
        json!({"selector": {"app": "a"}, "mtls": {"mode": "STRICT"}}),
        json!({"mode": "STRICT"}),
    ] {
        wrong.push(("PeerAuthentication", spec));
    }
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    for host in ["", "*", "a b", "-x.y", "a..b", "x_y!.z", &"a".repeat(300)] {
        wrong.push(("ServiceEntry", json!({"hosts": [host], "ports": ports, "resolution": "STATIC", "endpoints": [{"address": "10.0.0.1"}]})));
    }
    let entry = |more: Value| {
        let mut spec = json!({"hosts": ["wrong.example"], "ports": ports, "resolution": "STATIC", "location": "MESH_EXTERNAL"});
        spec.as_object_mut().into_iter().zip(more.as_object()).for_each(|(spec, more)| spec.extend(more.clone()));
        ("ServiceEntry", spec)
    };
    let port = |number: Value, name: &str, protocol: &str| json!({"number": number, "name": name, "protocol": protocol});
    for more in [
        json!({"hosts": []}),
        json!({"addresses": ["10.0.0.0/33"]}),
        json!({"addresses": ["nowhere"]}),
        json!({"resolution": "MAGIC"}),
        json!({"location": "MOON"}),
        json!({"ports": [port(json!(0), "a", "TCP")]}),
        json!({"ports": [port(json!(65536), "a", "TCP")]}),
        json!({"ports": [port(json!(-1), "a", "TCP")]}),
        json!({"ports": [port(json!("80"), "a", "TCP")]}),
        json!({"ports": [port(json!(80), "", "TCP")]}),
        json!({"ports": [port(json!(80), "a", "TCP"), port(json!(81), "a", "TCP")]}),
        json!({"ports": [port(json!(80), "a", "TCP"), port(json!(80), "b", "TCP")]}),
        json!({"endpoints": [{"address": "not-an-address"}]}),
        json!({"endpoints": [{"address": "10.0.0.1"}, {"address": "10.0.0.1"}]}),
        json!({"endpoints": [{"address": ""}]}),
        json!({"endpoints": [{"address": "10.0.0.1", "ports": {"http": 0}}]}),
        json!({"endpoints": [{"address": "10.0.0.1"}], "workloadSelector": {"labels": {"a": "b"}}}),
        json!({"exportTo": "everybody"}),
    ] {
        wrong.push(entry(more));
    }
    for spec in [
        json!({}),
        json!({"address": ""}),
        json!({"address": "10.0.0.1", "ports": {"http": 0}}),
        json!({"address": "10.0.0.1", "ports": {"http": 65536}}),
        json!({"address": "10.0.0.1", "weight": -1}),
        json!({"address": ["10.0.0.1"]}),
        json!({"adress": "10.0.0.1"}),
    ] {
        wrong.push(("WorkloadEntry", spec));
    }
    wrong
}

fn object(number: usize, kind: &str, spec: &Value) -> Value {
    let group = if kind.ends_with("Entry") { "networking.istio.io" } else { "security.istio.io" };
    // In a selector of their own where they have one: whoever is selected by a wrong policy is denied.
    let mut spec = spec.clone();
    if kind == "AuthorizationPolicy" && spec["selector"].is_null() && spec["targetRefs"].is_null() {
        spec["selector"] = json!({"matchLabels": {"app": "nobody"}});
    }
    json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"namespace": MESH, "name": format!("wrong-{number}")}, "spec": spec})
}

/// What the object's own status says against it.
fn complaint(object: &Value) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    // Where nothing is to be said the reason is this one; a part that is left out has another, though the rest holds.
    conditions.iter().find(|one| one["reason"] != "Accepted" && !text(&one["message"]).is_empty()).map(|one| text(&one["message"]))
}

fn wrong_objects_are_refused_or_told_of(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let wrong = wrong();
    ensure!(wrong.len() >= OBJECTS_MIN, "only {} wrong objects", wrong.len());
    let (mut refused, mut told, mut taken) = (0, 0, Vec::new());
    let put = || {
        for (number, (kind, spec)) in wrong.iter().enumerate() {
            let object = object(number, kind, spec);
            match stand.api.apply(&object) {
                Err(error) => {
                    let said = format!("{error:#}");
                    // "Internal error" or a time-out would be no hint.
                    ensure!(said.contains("spec") || said.contains("denied the request"), "{object}: {said}");
                    refused += 1;
                }
                Ok(_) => {
                    let began = Instant::now();
                    let said = loop {
                        match complaint(&stand.api.read(&object)?) {
                            Some(said) => break Some(said),
                            None if began.elapsed() > TOLD_WITHIN => break None,
                            None => std::thread::park_timeout(Duration::from_millis(20)),
                        }
                    };
                    stand.api.delete(&object)?;
                    match said {
                        Some(_) => told += 1,
                        None => taken.push(format!("{kind} {spec}")),
                    }
                }
            }
        }
        Ok(())
    };
    under_load(Demand::fresh(25).with_open(2, 5), 500, put, Report::all_held)?;
    println!("    {} wrong objects: {refused} refused, {told} told of in their status", wrong.len());
    ensure!(taken.is_empty(), "{} were taken without a word: {}", taken.len(), taken.join("; "));
    Ok(())
}

// V-32, from where the API server calls: every port of every controller, and they serve on.
fn noise_on_the_controllers_ports_changes_nothing(cluster: &Cluster) -> Result<Outcome> {
    const PER_PORT: usize = 100;
    if !cluster.ours {
        return Ok(Outcome::Skipped("pods of this cluster cannot be reached from here".into()));
    }
    let stand = Stand::up(cluster)?;
    let mut chance = StdRng::seed_from_u64(7);
    let controllers = parts(cluster, "istiod")?;
    for istiod in &controllers {
        for port in [15012, 15014, 15017] {
            let to: SocketAddr = format!("{}:{port}", text(&istiod["status"]["podIP"])).parse()?;
            let noise: Vec<Vec<u8>> = (0..PER_PORT).map(|number| noise(&mut chance, number)).collect();
            netns::within(&netns::path(&switch()), move || noise.iter().try_for_each(|noise| say(to, noise)))??;
        }
    }
    let after = parts(cluster, "istiod")?;
    for (before, after) in controllers.iter().zip(&after) {
        let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
        ensure!(restarts(before) == restarts(after) && super::stand::is_ready(after), "a controller did not live through it");
    }
    // It serves: a policy comes and goes.
    let deny = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"namespace": MESH, "name": "after-noise"},
                      "spec": {"selector": {"matchLabels": {"app": SERVERS[1]}}, "action": "DENY", "rules": [{}]}});
    stand.api.apply(&deny)?;
    let in_force = until_refused(cluster, &in_mesh(CALLERS[0]), &at(SERVERS[1]));
    stand.api.delete(&deny)?;
    in_force?;
    until_answered(cluster, &in_mesh(CALLERS[0]), &at(SERVERS[1]))?;
    Ok(Outcome::Held)
}

/// What begins like a protocol gets further in than what does not.
fn noise(chance: &mut StdRng, number: usize) -> Vec<u8> {
    let beginnings: [&[u8]; 6] = [b"", b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /validate HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", b"GET /metrics HTTP/1.1\r\nhost: ", b"\x80\x2e\x01"];
    let mut noise = beginnings[number % beginnings.len()].to_vec();
    let mut rest = vec![0; chance.random_range(0..4096)];
    chance.fill_bytes(&mut rest);
    noise.extend(rest);
    noise
}

/// However it is answered: it must be taken and ended.
fn say(to: SocketAddr, noise: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    // It may have been closed already, and need not answer.
    let _ = stream.write_all(noise);
    let _ = stream.read(&mut [0; 64]);
    Ok(())
}
