//! The program `lamplight`; everything is in the library.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // A huge page is cleared at once, which some machines take milliseconds for, and everybody waits: small ones cost as much
    // in all, a little at a time. A kernel that has none refuses, and all is well.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    lamplight::cli::main()
}
