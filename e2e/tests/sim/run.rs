//! One seeded run: a random scenario, and the laws at its end.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh_model::identity::SpiffeId;
use mesh_model::workload::PolicyKey;
use mesh_policy::{Action, Group, Match, Policy, Rule, Scope, StringMatch};
use mesh_sim::cable::State;
use mesh_sim::laws::SETTLE;
use mesh_xds::world::Edit;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::sim::app::{Call, call};
use crate::sim::mesh::{NAMESPACE, Place, Sabotage, Sim, at, is_inbound};

pub struct Outcome {
    pub calls: usize,
    pub answered: usize,
    pub broken: Vec<String>,
}

/// Plays one seed to its end, in its own runtime with a paused clock.
pub fn run(seed: u64, sabotage: Sabotage) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(Scenario::new(seed, sabotage).play())
}

/// When each denied account was last allowed, and since when it is denied.
type Denied = Arc<Mutex<BTreeMap<String, Instant>>>;

struct Scenario {
    rng: SmallRng,
    sim: Sim,
    denied: Denied,
    broken: Arc<Mutex<Vec<String>>>,
    calls: Vec<JoinHandle<Call>>,
    /// Nothing but policy disturbed this run so far, so whoever is allowed must be answered.
    calm: bool,
    next_call: u64,
}

const ACCOUNTS: [&str; 4] = ["front", "cart", "bank", "evil"];
const NODES: [&str; 3] = ["a", "b", "c"];

impl Scenario {
    fn new(seed: u64, sabotage: Sabotage) -> Scenario {
        let mut rng = SmallRng::seed_from_u64(seed);
        let sim = Sim::new(rng.random(), sabotage);
        Scenario { rng, sim, denied: Arc::default(), broken: Arc::default(), calls: Vec::new(), calm: true, next_call: 0 }
    }

    async fn play(mut self) -> Outcome {
        for node in NODES {
            self.sim.add_node(node);
        }
        for index in 0..self.rng.random_range(3..7) {
            self.pod(index).await;
        }
        self.wait(1_000).await;
        for _ in 0..self.rng.random_range(8..24) {
            self.step().await;
            let pause = self.rng.random_range(0..400);
            self.wait(pause).await;
        }
        for (one, other) in [("a", "b"), ("b", "c"), ("a", "c")] {
            self.sim.fabric.link(one, other, State::Whole);
        }
        self.finish().await
    }

    async fn pod(&mut self, index: u8) {
        let node = *NODES.choose(&mut self.rng).expect("there are nodes");
        let account = *ACCOUNTS.choose(&mut self.rng).expect("there are accounts");
        self.sim.add_pod(node, ip(index), account, true).await;
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..55 => self.call(),
            55..70 => self.flip_policy(),
            70..78 => {
                self.calm = false;
                let index = self.rng.random_range(0..6);
                self.sim.remove_pod(ip(index)).await;
                self.pod(index).await;
            }
            78..84 => {
                self.calm = false;
                let (one, other) = *[("a", "b"), ("b", "c"), ("a", "c")].choose(&mut self.rng).expect("there are links");
                let state = *[State::Held, State::Reset, State::Whole].choose(&mut self.rng).expect("there are states");
                self.sim.fabric.link(one, other, state);
            }
            84..88 => {
                self.calm = false;
                let node = *NODES.choose(&mut self.rng).expect("there are nodes");
                self.sim.crash(node).await;
            }
            88..92 => {
                self.calm = false;
                let away = !self.sim.ca_away.load(Ordering::Relaxed);
                self.sim.ca_away.store(away, Ordering::Relaxed);
            }
            92..95 => {
                self.calm = false;
                let seconds = self.rng.random_range(-3_600..3_600);
                self.sim.clock.jump(seconds);
            }
            // A long silence: certificates are renewed in it.
            _ => self.wait(400_000).await,
        }
    }

    fn call(&mut self) {
        let places: Vec<Place> = self.sim.places.values().cloned().collect();
        let (Some(from), Some(to)) = (places.choose(&mut self.rng).cloned(), places.choose(&mut self.rng).cloned()) else { return };
        if from.ip == to.ip {
            return;
        }
        self.next_call += 1;
        let (blocks, pause) = if self.rng.random_bool(0.5) { (3, 1) } else { (40, 250) };
        let net = self.sim.fabric.application(from.ip);
        let (id, denied, broken) = (self.next_call, self.denied.clone(), self.broken.clone());
        let account = from.account.clone();
        let expected = self.calm.then(|| to.name.clone());
        self.calls.push(tokio::spawn(async move {
            let begun = Instant::now();
            let allowed_at_start = !denied.lock().contains_key(&account);
            let watched = (denied.clone(), broken.clone(), account.clone());
            let ended = call(net, at(to.ip), id, blocks, Duration::from_millis(pause), move |number| {
                let (denied, broken, account) = &watched;
                if let Some(since) = denied.lock().get(account)
                    && since.elapsed() > SETTLE
                {
                    broken.lock().push(format!("law 4: call {id} of {account} got block {number} back {:?} after it was denied", since.elapsed()));
                }
            })
            .await;
            let say = |text: String| broken.lock().push(text);
            match &ended {
                Call::Wrong(what) => say(format!("wrong data: {what}")),
                Call::FalseEnd => say(format!("call {id} from {account} was cut and told it was an end")),
                Call::Hung => say(format!("call {id} from {} to {} hung", from.name, to.name)),
                Call::Answered { by, .. } | Call::Cut { by: Some(by), .. } => {
                    if expected.as_ref().is_some_and(|expected| expected != by) {
                        say(format!("law 5: call {id} to {} was answered by {by}", to.name));
                    }
                }
                Call::Cut { by: None, .. } => {}
            }
            // Nothing but policy can have cut a calm call, and policy allowed this one all the time.
            let allowed_throughout = allowed_at_start && !denied.lock().contains_key(&account);
            if expected.is_some() && allowed_throughout && !matches!(ended, Call::Answered { .. }) {
                return Call::Cut { by: Some(format!("calm {id} {:?} after {:?}", ended, begun.elapsed())), blocks: usize::MAX };
            }
            ended
        }));
    }

    /// Denies an account everywhere, or takes that back.
    fn flip_policy(&mut self) {
        let account = *ACCOUNTS.choose(&mut self.rng).expect("there are accounts");
        let mut policy = Policy::new(NAMESPACE, &format!("no-{account}"), Scope::Namespace, Action::Deny);
        let principal = StringMatch::exact(&SpiffeId::new("cluster.local", NAMESPACE, account).principal());
        policy.groups = vec![Group::new([Rule::new([Match { principals: vec![principal.into()], ..Match::default() }])])];
        let key: PolicyKey = policy.key();
        let removed = self.denied.lock().remove(account).is_some();
        if removed {
            self.sim.push(Edit::RemovePolicy(key));
        } else {
            self.denied.lock().insert(account.to_owned(), Instant::now());
            self.sim.push(Edit::Policy(key, Arc::new(policy)));
        }
    }

    async fn wait(&self, milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    async fn finish(mut self) -> Outcome {
        let calm = self.calm;
        let (mut calls, mut answered) = (0, 0);
        for running in std::mem::take(&mut self.calls) {
            calls += 1;
            match running.await.expect("a call does not panic") {
                Call::Answered { .. } => answered += 1,
                // Told by the call itself; it counts only if the whole run stayed calm.
                Call::Cut { by: Some(what), blocks: usize::MAX } if calm && !self.policy_moved() => {
                    self.broken.lock().push(format!("an allowed call was not answered: {what}"));
                }
                _ => {}
            }
        }
        // Ends that are still under way are told within a moment.
        self.wait(2_000).await;
        let left = self.sim.drain().await;
        let mut broken = self.broken.lock().clone();
        broken.extend(left.into_iter().map(|left| format!("law 6: left after the drain: {left}")));
        if self.sim.markers.load(Ordering::Relaxed) > 0 {
            broken.push("law 3: the plain-text marker was on a wire".to_owned());
        }
        broken.extend(self.byte_laws(calm));
        Outcome { calls, answered, broken }
    }

    fn policy_moved(&self) -> bool {
        self.sim.truth.iter().any(|edit| matches!(edit, Edit::Policy(..) | Edit::RemovePolicy(_)))
    }

    /// Law 2 over all accounts: what the servers' nodes delivered, the clients' nodes sent; no less than that when
    /// nothing was cut.
    fn byte_laws(&self, calm: bool) -> Vec<String> {
        let closed = self.sim.closed.lock();
        let sum = |inbound: bool| closed.iter().filter(|ended| is_inbound(ended) == inbound).map(|ended| ended.forward).sum::<u64>();
        let (sent, delivered) = (sum(false), sum(true));
        let mut broken = Vec::new();
        if delivered > sent {
            broken.push(format!("law 2: {delivered} bytes were delivered, {sent} sent"));
        }
        let cut = closed.iter().any(|ended| ended.reason.is_some());
        if calm && !cut && delivered != sent {
            broken.push(format!("law 2: nothing was cut, {sent} bytes were sent and {delivered} delivered"));
        }
        broken
    }
}

fn ip(index: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, index + 1).into()
}
