//! The CNI plugin: run by the container runtime for each sandbox, after the plugins that made its network.
//!
//! A pod that is to be in the mesh starts when the agent says that it is captured and served, and not before. The agent
//! knows all pods of the node; while it is away, the plugin asks the API server itself whether this pod is to be in the
//! mesh: if not, the pod starts; if so, or if nobody can tell, it does not, and the runtime tries again.

pub mod call;
pub mod event;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::Api;

use self::call::{Add, Call, Failure, read, result};
use self::event::{Event, PATH, SOCKET};
use crate::kubernetes::api;
use crate::kubernetes::decide::{Decision, Facts, Selection};

/// The agent answers when the pod is enrolled, or in 20 s with what it waits for (`kubernetes::ENROL_MAX`).
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// For the API server, when the agent is away.
const LOOKUP_MAX: Duration = Duration::from_secs(10);
/// The agent's answers are a sentence.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// The file by which the plugin asks the API server, in the agent's run folder.
pub const KUBECONFIG: &str = "kubeconfig";

/// One call of the runtime: environment and standard input to standard output and exit status.
pub fn run(environment: &BTreeMap<String, String>) -> ExitCode {
    let mut input = String::new();
    let done = match io::stdin().lock().read_to_string(&mut input) {
        Ok(_) => read(environment, &input).and_then(carry_out),
        Err(error) => Err(Failure {
            version: "1.0.0".to_owned(),
            code: call::BAD_CONFIG,
            message: format!("standard input cannot be read: {error}"),
            details: String::new(),
        }),
    };
    let (answer, status) = match done {
        Ok(serde_json::Value::Null) => return ExitCode::SUCCESS,
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(failure) => (failure.shown(), ExitCode::FAILURE),
    };
    let written = writeln!(io::stdout().lock(), "{answer}");
    if written.is_ok() { status } else { ExitCode::FAILURE }
}

fn carry_out(call: Call) -> Result<serde_json::Value, Failure> {
    let add = match call {
        Call::Answer(answer) => return Ok(answer),
        Call::Add(add) => add,
    };
    let socket = add.config.cni_agent_run_dir.join(SOCKET);
    match tell(&socket, &add.event) {
        Ok((200, _)) => Ok(result(&add.config)),
        Ok((_, why)) => Err(Failure::of(&add.config, format!("the pod cannot join the mesh yet: {}", why.trim()), pod(&add))),
        Err(away) => match is_selected(&add) {
            Ok(false) => Ok(result(&add.config)),
            Ok(true) => {
                let text = format!("the pod is to be in the mesh, and the node's agent mesh-cni does not answer on {}: {away}", socket.display());
                Err(Failure::of(&add.config, text, pod(&add)))
            }
            Err(unknown) => {
                let text = format!(
                    "whether the pod is to be in the mesh cannot be told: the node's agent mesh-cni does not answer on {}: {away}; \
                     and the API server was not asked with success: {unknown}",
                    socket.display()
                );
                Err(Failure::of(&add.config, text, pod(&add)))
            }
        },
    }
}

fn pod(add: &Add) -> String {
    format!("pod {}/{}; the runtime tries again", add.event.pod_namespace, add.event.pod_name)
}

/// The agent's answer: status and text.
fn tell(socket: &Path, event: &Event) -> io::Result<(u16, String)> {
    let body = serde_json::to_vec(event).expect("texts and numbers are JSON");
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: unix\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let status = answer.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
    let text = answer.split_once("\r\n\r\n").map(|(_, text)| text.to_owned()).unwrap_or_default();
    status.map(|status| (status, text)).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it did not answer in HTTP"))
}

/// Asks the API server.
fn is_selected(add: &Add) -> Result<bool, String> {
    let config = &add.config;
    let selectors = config.enablement_selectors.as_ref().map(ToString::to_string).unwrap_or_default();
    let selection = Selection::parse(&selectors, config.exclude_namespaces.iter().cloned(), &config.pod_namespace)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let asking = async {
        let path = config.cni_agent_run_dir.join(KUBECONFIG);
        let client = api::connect(Some(&path)).await.map_err(|error| format!("{error:#}"))?;
        let pods: Api<v1::Pod> = Api::namespaced(client.clone(), &add.event.pod_namespace);
        let namespaces: Api<v1::Namespace> = Api::all(client);
        let pod = pods.get(&add.event.pod_name).await.map_err(|error| error.to_string())?;
        let namespace = namespaces.get(&add.event.pod_namespace).await.map_err(|error| error.to_string())?;
        let facts = Facts::of(&pod).ok_or_else(|| "the pod has no uid".to_owned())?;
        Ok(selection.decide(&facts, &namespace.metadata.labels.unwrap_or_default()) == Decision::Enrol)
    };
    let limited = async { tokio::time::timeout(LOOKUP_MAX, asking).await };
    runtime.block_on(limited).unwrap_or_else(|_| Err(format!("it did not answer in {} s", LOOKUP_MAX.as_secs())))
}
