//! Where it is said how a pod stands: a status file beside the file that announced it, or the annotation of a Kubernetes
//! pod. What the pod's life says is the same for both.

use std::path::PathBuf;

use crate::kubernetes::annotation::Annotation;
use crate::status::{self, Counts, State};

/// One pod's place to be told of.
#[derive(Clone, Debug)]
pub enum Report {
    File(PathBuf),
    Annotation(Annotation),
}

impl Report {
    pub fn say(&self, uid: &str, state: State, reason: &str, counts: Counts) {
        match self {
            Report::File(path) => {
                if let Err(error) = status::write(path, uid, state, reason, counts) {
                    tracing::warn!(%error, path = %path.display(), "cannot write a status file");
                }
            }
            Report::Annotation(annotation) => annotation.say(state, reason),
        }
    }

    /// Until others can know what was said last.
    pub async fn known(&self) {
        match self {
            Report::File(_) => {} // a file is there when it is written
            Report::Annotation(annotation) => annotation.written().await,
        }
    }

    /// Nothing more is to be said of this pod.
    pub fn end(&self, uid: &str) {
        match self {
            Report::File(path) => status::remove(path, uid),
            Report::Annotation(_) => {} // it goes with the pod
        }
    }
}
