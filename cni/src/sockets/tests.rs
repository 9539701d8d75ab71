use mesh_net::conntrack;
use mesh_net::tcp_table::State;

use super::*;

fn entry(local: &str, remote: &str, state: State, mark: u32) -> Entry {
    let flow = Flow { local: local.parse().unwrap(), remote: remote.parse().unwrap() };
    let mut entry = Entry::numbered(0);
    (entry.flow, entry.state, entry.mark) = (flow, state, Some(mark));
    entry
}

const MARKS: Marks = Marks { own: 7, fixed_too: false };
const UP: State = State::ESTABLISHED;

#[test]
fn what_the_daemon_accepted_is_carried() {
    let entries = [
        entry("0.0.0.0:15006", "0.0.0.0:0", State::LISTEN, 7),
        entry("127.0.0.1:15001", "10.0.1.5:49155", UP, 7),
        entry("10.0.1.5:15006", "10.0.0.7:4000", UP, 7),
        entry("10.0.1.5:15008", "10.0.0.7:4000", UP, FIXED_MARK),
        entry("10.0.1.5:40000", "10.0.0.7:15008", UP, 7), // dialled
        entry("10.0.1.5:15008", "10.0.0.8:4000", UP, 0),  // an application of the same port
    ];
    assert_eq!(carried(&entries, MARKS), 2);
    assert_eq!(carried(&entries, Marks { fixed_too: true, ..MARKS }), 3);
}

#[test]
fn only_what_the_rules_would_have_caught_is_a_stray() {
    let scope = Scope {
        dns: true,
        inbound: true,
        virtual_interfaces: vec![],
        exclude_inbound: vec![Ports { first: 22, last: 22 }],
        exclude_outbound: vec![Ports { first: 25, last: 26 }],
    };
    let probe = format!("{PROBE_V4}:4000");
    let entries = [
        entry("0.0.0.0:80", "0.0.0.0:0", State::LISTEN, 0),
        entry("10.0.1.5:80", "10.0.0.7:4000", UP, 0),
        entry("10.0.1.5:40000", "10.0.0.7:80", State::SYN_SENT, 9),
        entry("10.0.1.5:22", "10.0.0.7:4001", UP, 0),
        entry("10.0.1.5:40001", "10.0.0.7:25", UP, 0),
        entry("10.0.1.5:80", &probe, UP, 0),
        entry("10.0.1.5:80", "10.0.0.7:4002", UP, 0),
        entry("10.0.1.5:80", "10.0.0.7:4003", State(8), 0), // CLOSE_WAIT
    ];
    let older = BTreeSet::from([entries[6].flow]);
    let servers = Servers::of(&entries, 32768..=60999);
    let bypassing = bypassing(&entries, MARKS).unwrap();
    let found = |scope: &Scope, probes: bool| -> Vec<String> {
        strays(&bypassing, &servers, scope, probes, &older).iter().map(|e| e.flow.remote.to_string()).collect()
    };
    assert_eq!(found(&scope, true), ["10.0.0.7:4000", "10.0.0.7:80"]);
    assert_eq!(found(&scope, false), ["10.0.0.7:4000", "10.0.0.7:80", &probe]);
    assert_eq!(found(&Scope { inbound: false, ..scope }, true), ["10.0.0.7:80"]);
}

#[test]
fn what_ended_while_nobody_looked_is_told_from_what_goes_on() {
    let tracked = |from: &str, to: &str, ended_at: &str, answered_to: &str, state| {
        let at = |text: &str| text.parse().unwrap();
        Tracked::made_up(Way { from: at(from), to: at(to) }, Way { from: at(ended_at), to: at(answered_to) }, state)
    };
    let (pod, client, web) = ("10.0.1.5:80", "10.0.0.7:4000", "10.96.0.1:80");
    let up = conntrack::State::ESTABLISHED;
    let cases = [
        ("a plain one", tracked(client, pod, pod, client, up), true),
        ("one that was redirected to the daemon", tracked(client, pod, "10.0.1.5:15006", client, up), true),
        ("one that the pod made", tracked("10.0.1.5:40000", web, web, "10.0.1.5:40000", up), true),
        ("one that the pod made, redirected", tracked("10.0.1.5:40000", web, "127.0.0.1:15001", "10.0.1.5:40000", up), true),
        ("one in which the last answer is awaited", tracked(client, pod, pod, client, conntrack::State::LAST_ACK), true),
        ("one that may begin anew anyhow", tracked(client, pod, pod, client, conntrack::State::TIME_WAIT), false),
        ("a machine's behind the pod", tracked("192.168.7.2:5000", web, web, "10.0.1.5:61000", up), false),
        ("one that others translate", tracked(client, pod, "192.168.7.2:80", client, up), false),
    ];
    let listener = entry("0.0.0.0:80", "0.0.0.0:0", State::LISTEN, 0);
    for (what, one, ended) in &cases {
        assert_eq!(forgotten_ends(vec![one.clone()], &[listener]).len(), usize::from(*ended), "{what}");
        // With a socket, on either side of it, or at the daemon, it goes on.
        for way in [one.there, one.back] {
            for (local, remote) in [(way.from, way.to), (way.to, way.from)] {
                let open = entry(&local.to_string(), &remote.to_string(), UP, 0);
                assert!(forgotten_ends(vec![one.clone()], &[listener, open]).is_empty(), "{what}: {local} {remote}");
            }
        }
    }
}
