//! The command line.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::commands;
use crate::commands::common::Context;
use crate::device::DeviceChoice;
use crate::error::{ErrorDocument, Kind, Reported, kind_of, message_of};
use crate::interrupt;
use crate::output::Output;

/// Lists the subcommands: a variant and its module in `commands/`, which has `Args` (whose doc comment is the help) and
/// `run`. A new command is one line here.
macro_rules! subcommands {
    ($($variant:ident => $module:ident),+ $(,)?) => {
        /// The subcommands.
        #[derive(Debug, clap::Subcommand)]
        #[allow(missing_docs, clippy::large_enum_variant)]
        pub enum Command {
            $($variant(commands::$module::Args)),+
        }

        impl Command {
            /// Runs it.
            ///
            /// # Errors
            /// Whatever ends the command early.
            pub fn run(&self, context: &Context) -> anyhow::Result<()> {
                match self {
                    $(Self::$variant(args) => commands::$module::run(args, context)),+
                }
            }
        }
    };
}

subcommands! {
    Demo => demo,
    Profile => profile,
    Plan => plan,
    Search => search,
    Study => study,
    Train => train,
    Eval => eval,
    Generate => generate,
    Export => export,
    Inspect => inspect,
    Experiment => experiment,
    Report => report,
    Open => open,
    Verify => verify,
    Parity => parity,
    Pretrain => pretrain,
    Bench => bench,
    Doctor => doctor,
}

const AFTER_HELP: &str = "\
Examples:
  trainer demo
  trainer inspect --model mobilevlm-1.7b --base-rank 128
  trainer plan --gradients grads.jsonl --model config.json --base-rank 16 --peft adapter_config.json

Exit codes:
    0  all went well
    1  failure
    2  wrong usage or configuration
    3  data: a file is missing, broken, or does not fit the model
    4  no schedule fits the budget
    5  a number is NaN or infinite, in a log or during training
   75  try again later, or resume (a locked run, a full disk)
  130  interrupted; the state was saved";

/// HyDRA: give each LoRA matrix of a vision-language model the rank that it needs, at the same number of trainable
/// parameters.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// What all commands share.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print one JSON document on standard output; on failure {"error": {"code", "kind", "message"}}
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress on standard error; warnings and errors stay
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Where tensors live
    #[arg(long, global = true, value_enum, default_value_t, value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// What to log on standard error: error, warn, info, debug, or a filter such as hydra_trainer=debug
    #[arg(
        long,
        global = true,
        // wgpu tries every kind of driver, and calls each that is not there an error.
        default_value = "warn,wgpu_hal=off",
        env = "HYDRA_LOG",
        value_name = "FILTER",
        hide_env_values = true
    )]
    pub log: String,
}

/// Parses the command line, runs the command, reports its error, and gives the exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return parse_failed(&error, &arguments),
    };
    let output = Output::new(cli.global.json, cli.global.quiet);
    let context = Context { output: output.clone(), device: cli.global.device, arguments };
    let result = output
        .start_logging(&cli.global.log)
        .and_then(|()| interrupt::install())
        .and_then(|()| cli.command.run(&context));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::debug!("{error:?}");
            if let Some(reported) = error.downcast_ref::<Reported>() {
                output.error(&reported.message);
                return ExitCode::from(Kind::Failure.code());
            }
            fail(&output, kind_of(&error), message_of(&error))
        }
    }
}

fn parse_failed(error: &clap::Error, arguments: &[String]) -> ExitCode {
    if !error.use_stderr() {
        // --help and --version.
        return if error.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let _ = error.print();
    if arguments.iter().any(|argument| argument == "--json") {
        let rendered = error.render().to_string();
        let message = match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no command was given".to_owned(),
            // The first paragraph; what follows is usage.
            _ => rendered
                .lines()
                .take_while(|line| !line.is_empty())
                .map(str::trim)
                .collect::<Vec<_>>()
                .join(" ")
                .trim_start_matches("error: ")
                .to_owned(),
        };
        let _ = Output::new(true, true).result(&ErrorDocument::new(Kind::Usage, message), String::new);
    }
    ExitCode::from(Kind::Usage.code())
}

fn fail(output: &Output, kind: Kind, message: String) -> ExitCode {
    output.error(&message);
    if output.json() {
        // Standard error already has the message; if standard output is closed there is nobody left to tell.
        let _ = output.result(&ErrorDocument::new(kind, message), String::new);
    }
    ExitCode::from(kind.code())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_commands_help_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("trainer "), "`trainer {} --help` has no example", command.get_name());
        }
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        for kind in Kind::ALL {
            let line = format!("\n{:>5}  ", kind.code());
            assert!(AFTER_HELP.contains(&line), "{line:?}");
        }
    }
}
