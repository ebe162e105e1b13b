//! The program `trainer`.

// Tensors are allocated and freed in every operation: the system's allocator gives large ones back to the kernel each
// time, which took a third of a training step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's option for how many milliseconds freed memory is kept; the `MIMALLOC_PURGE_DELAY` of its environment.
const PURGE_DELAY: std::ffi::c_int = 15;
/// As long as the process lives.
const FOREVER: std::ffi::c_long = -1;

/// Keeps freed memory. The steps of a run allocate the same tensors again and again; given back to the kernel in between,
/// their pages have to be cleared anew each time, which took a third of a training step. A value in the environment is
/// stronger.
#[expect(unsafe_code, reason = "the allocator has no other interface for it")]
fn keep_memory() {
    // SAFETY: no other thread exists yet, which is all that the function asks for.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, FOREVER) }
}

fn main() -> std::process::ExitCode {
    keep_memory();
    hydra_trainer::cli::main()
}
