//! Where resources go that are not of the workload API.

use crate::messages::waypoint::ResourceStatus;

/// Takes resources one by one, and is told when those of a response are over: what readers see changes then, as a whole. Of a
/// new stream the first responses of all types are one: a service is never seen without the policies that guard it, whichever
/// of the two went or came while there was no stream.
pub trait Sink: Send + Sync + 'static {
    /// A resource with its content, or the end of one (`None`).
    ///
    /// # Errors
    /// What the controller is to be told of it. In state `REJECTED` it counts as not held, in state `PARTIAL` as held.
    fn take(&mut self, type_url: &str, name: &str, content: Option<&[u8]>) -> Result<(), Box<ResourceStatus>>;

    /// All of a response was taken, and each type has been heard of on this stream.
    fn settled(&mut self);
}

#[cfg(test)]
mod tests;
