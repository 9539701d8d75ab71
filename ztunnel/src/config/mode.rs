//! For whom this daemon works.

use mesh_runtime::knobs::Knobs;

use super::Mode;

pub(super) fn read(knobs: &mut Knobs<'_>) -> Mode {
    knobs.section("Mode");
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        Shared,
        Dedicated,
    }
    let word = knobs.choice(
        "PROXY_MODE",
        &[("shared", Word::Shared), ("dedicated", Word::Dedicated)],
        "One daemon for all pods of a node, or for one workload.",
    );
    let workload: Option<String> = knobs.optional(
        "PROXY_WORKLOAD_INFO",
        "–",
        "`namespace/name/service-account` of the one workload; needed in dedicated mode.",
    );
    let agent = knobs.value(
        "INPOD_UDS",
        "/var/run/ztunnel/ztunnel.sock",
        "The node agent's socket, where pods are handed over (shared mode).",
    );
    if word == Word::Shared {
        return Mode::Shared { agent };
    }
    let text = workload.unwrap_or_default();
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [namespace, name, account] if [namespace, name, account].iter().all(|part| !part.is_empty()) => {
            Mode::Dedicated { namespace: (*namespace).into(), name: (*name).into(), service_account: (*account).into() }
        }
        _ => {
            knobs.refuse("PROXY_WORKLOAD_INFO", "namespace/name/service-account, because PROXY_MODE is dedicated");
            Mode::Shared { agent }
        }
    }
}
