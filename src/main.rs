//! The program `lamplight`; everything is in the library.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // A huge page is cleared at once, which some machines take milliseconds for, and everybody waits: small ones cost as much
    // in all, a little at a time. A kernel that has none refuses, and all is well.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    lamplight::cli::main(give_back)
}

/// Gives what was freed back to the system.
fn give_back() {
    // SAFETY: any thread may call it at any time; it takes nothing that is in use.
    #[expect(unsafe_code, reason = "the allocator has no safe name for it")]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}
