//! In a program of its own, because the allocator is the whole program's.

use mesh_net::heap::give_back;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: usize = 1 << 20;

#[test]
fn what_a_thread_has_freed_goes_back_to_the_kernel() {
    std::thread::spawn(give_back).join().expect("a thread without a heap has nothing to give back");
    let before = resident();
    let blocks: Vec<Vec<u8>> = (0..1024).map(|at| vec![at as u8 | 1; 64 << 10]).collect();
    let held = resident();
    assert!(held > before + 48 * MIB, "64 MiB were written to; {before} bytes became {held}");
    drop(blocks);
    give_back();
    let after = resident();
    assert!(after < before + 16 * MIB, "{before} bytes, {held} with 64 MiB, {after} after giving them back");
}

/// Bytes of this process in memory (proc(5), statm).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("the second field is a number");
    pages * 4096
}
