//! The program `trainer`.

// Tensors are allocated and freed in every operation: the system's allocator gives large ones back to the kernel each
// time, which took a third of a training step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    hydra_trainer::cli::main()
}
