//! Giving memory back to the kernel.
//!
//! The allocator keeps what a thread freed for that thread's next allocation, and looks for pages to give back only
//! while it is busy. A daemon whose connections have just closed is not, so each of its threads has to ask.

/// Gives back what the calling thread has freed, and what others freed of what it allocated. It looks at every page that
/// the thread holds: microseconds for a thousand of them, and more where there is much to give back.
///
/// Without effect in a program whose allocator is another one.
#[allow(unsafe_code)]
pub fn give_back() {
    // SAFETY: mi_collect takes no pointer, works on the calling thread's own heap and may be called at any time; a thread
    // that has none yet gets one. JUSTIFICATION: the safe part of mimalloc has no call for it.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
