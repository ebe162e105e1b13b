//! The program `trainer`.

fn main() -> std::process::ExitCode {
    hydra_trainer::cli::main()
}
