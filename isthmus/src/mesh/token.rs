//! Tokens of the node daemons: minted here with the claims of a Kubernetes bound token, renewed at half their life. The
//! controller is given the public key; the private one lies beside the authority's, so that the operator can make tokens for
//! machines that join. Pods and other users come to neither. The daemons of this lab run as the operator's user: what keeps
//! a node's daemon from another's secrets on real nodes, a file system of its own, is not there on one machine.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use mesh_identity::token::{AUDIENCE, MAX_LIFE, Minter, ObjectRef, Subject};

use crate::lab::state::{State, private_folder};

/// Who speaks in the tokens.
pub const ISSUER: &str = "https://isthmus.local";
/// Namespace and account of the node daemons, as charts of this family name them.
pub const ACCOUNT: (&str, &str) = ("istio-system", "ztunnel");

/// Keeps a fresh token for each node's daemon.
#[derive(Debug)]
pub struct Tokens {
    minter: Minter,
    nodes: Vec<String>,
    /// Pods whose programs are the mesh's own.
    pods: Vec<OfPod>,
    run: PathBuf,
    minted: SystemTime,
}

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfPod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub account: String,
    pub node: String,
}

/// Where the mesh's own program in a pod finds its token.
pub fn file_of_pod(run: &Path, pod: &OfPod) -> PathBuf {
    run.join("tokens").join(format!("{}.{}", pod.namespace, pod.name)).join("istio-token")
}

/// Where a node's daemon finds its token.
pub fn file(run: &Path, node: &str) -> PathBuf {
    run.join("tokens").join(node).join("istio-token")
}

/// Where the key is that tokens are made with, for `isthmus token`.
pub fn private_key(run: &Path) -> PathBuf {
    run.join("tokens").join("private.pem")
}

/// Where the controller finds the key that tokens are checked with.
pub fn public_key(run: &Path) -> PathBuf {
    run.join("tokens").join("public.pem")
}

impl Tokens {
    pub fn new(state: &State) -> anyhow::Result<Tokens> {
        let minter = Minter::generate(ISSUER).context("cannot make a key for tokens")?;
        let nodes: Vec<String> = state.nodes.iter().map(|node| node.name.clone()).collect();
        for node in &nodes {
            private_folder(&state.run.join("tokens").join(node))?;
        }
        fs::write(public_key(&state.run), minter.public_pem()).context("cannot write the public key of tokens")?;
        write_private(&private_key(&state.run), &minter.private_pem())?;
        let mut tokens = Tokens { minter, nodes, pods: Vec::new(), run: state.run.clone(), minted: SystemTime::UNIX_EPOCH };
        tokens.renew_if_due()?;
        Ok(tokens)
    }

    pub fn renew_if_due(&mut self) -> anyhow::Result<()> {
        let now = SystemTime::now();
        if !is_due(self.minted, now) {
            return Ok(());
        }
        for node in &self.nodes {
            let subject = subject(node);
            let token = self.minter.mint(&subject, AUDIENCE, MAX_LIFE, now).with_context(|| format!("cannot mint a token for {node}"))?;
            write_private(&file(&self.run, node), &token)?;
        }
        for pod in &self.pods {
            self.mint_for(pod, now)?;
        }
        self.minted = now;
        Ok(())
    }

    /// Keeps a token for a pod from now on.
    pub fn add(&mut self, pod: OfPod) -> anyhow::Result<()> {
        private_folder(file_of_pod(&self.run, &pod).parent().context("a token lies in a folder")?)?;
        self.mint_for(&pod, SystemTime::now())?;
        self.pods.retain(|one| (&one.namespace, &one.name) != (&pod.namespace, &pod.name));
        self.pods.push(pod);
        Ok(())
    }

    fn mint_for(&self, pod: &OfPod, now: SystemTime) -> anyhow::Result<()> {
        let token = self.minter.mint(&pod.subject(), AUDIENCE, MAX_LIFE, now).with_context(|| format!("cannot mint a token for pod {}/{}", pod.namespace, pod.name))?;
        write_private(&file_of_pod(&self.run, pod), &token)
    }
}

/// A token for a machine that runs as this account and is no node: it speaks for nobody else.
pub fn for_machine(run: &Path, namespace: &str, account: &str) -> anyhow::Result<String> {
    let file = private_key(run);
    let key = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let subject = Subject {
        namespace: namespace.to_owned(),
        service_account: ObjectRef { name: account.to_owned(), uid: format!("{namespace}-{account}") },
        pod: None,
        node: None,
    };
    Ok(Minter::from_private_pem(&key, ISSUER)?.mint(&subject, AUDIENCE, MAX_LIFE, SystemTime::now())?)
}

/// Half of the life, and also when the clock was set back before the moment of minting.
fn is_due(minted: SystemTime, now: SystemTime) -> bool {
    now.duration_since(minted).map_or(true, |age| age >= MAX_LIFE / 2)
}

/// A node's daemon, bound to its node. There is no Pod object for it, as there is none for its process.
fn subject(node: &str) -> Subject {
    let (namespace, account) = ACCOUNT;
    Subject {
        namespace: namespace.to_owned(),
        service_account: ObjectRef { name: account.to_owned(), uid: format!("{namespace}-{account}") },
        pod: None,
        node: Some(ObjectRef { name: node.to_owned(), uid: format!("node-{node}") }),
    }
}

impl OfPod {
    fn subject(&self) -> Subject {
        Subject {
            namespace: self.namespace.clone(),
            service_account: ObjectRef { name: self.account.clone(), uid: format!("{}-{}", self.namespace, self.account) },
            pod: Some(ObjectRef { name: self.name.clone(), uid: self.uid.clone() }),
            node: Some(ObjectRef { name: self.node.clone(), uid: format!("node-{}", self.node) }),
        }
    }
}

fn write_private(file: &Path, content: &str) -> anyhow::Result<()> {
    let beside = file.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).with_context(|| format!("cannot write {}", beside.display()))?;
    std::io::Write::write_all(&mut opened, content.as_bytes())?;
    fs::rename(&beside, file).with_context(|| format!("cannot replace {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_identity::token::Verifier;

    use super::*;

    #[test]
    fn a_token_is_renewed_at_half_its_life_and_when_the_clock_was_set_back() {
        let minted = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (seconds, due) in [(0, false), (1799, false), (1800, true), (4000, true)] {
            assert_eq!(is_due(minted, minted + Duration::from_secs(seconds)), due, "{seconds} s");
        }
        assert!(is_due(minted, minted - Duration::from_secs(10)));
    }

    #[test]
    fn a_token_says_which_node_it_is_for() {
        let minter = Minter::generate(ISSUER).unwrap();
        let now = SystemTime::now();
        let token = minter.mint(&subject("node-1"), AUDIENCE, MAX_LIFE, now).unwrap();
        let read = Verifier::new(&minter.public_pem(), ISSUER, AUDIENCE).unwrap().verify(&token, now).unwrap();
        assert_eq!(read, subject("node-1"));
        assert_eq!(read.node.unwrap().name, "node-1");
    }
}
