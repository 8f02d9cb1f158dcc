//! The `calipr` command.

use std::process::ExitCode;

use calipr::cli::{Command, Told, arguments, exit_code, settle, with_room};

#[global_allocator]
static ALLOCATOR: Told = Told;

fn main() -> ExitCode {
    settle();
    with_room(calipr).unwrap_or_else(|error| exit_code(Err(error)))
}

fn calipr() -> ExitCode {
    let outcome = match arguments() {
        Command::Run(args) => args.run(),
        Command::Init(args) => args.init(),
        Command::Work(args) => args.work(),
        Command::Plan(args) => args.plan(),
        Command::Submit(args) => args.submit(),
        Command::Status(args) => args.status(),
        Command::Report(args) => args.report(),
        Command::Compare(args) => args.compare(),
        Command::Export(args) => args.export(),
        Command::Reproduce(args) => args.reproduce(),
        Command::Datasets(args) => args.datasets(),
        Command::Bench(args) => args.bench(),
        Command::Cache(args) => args.cache(),
        Command::Schema(args) => args.schema(),
    };
    exit_code(outcome)
}
