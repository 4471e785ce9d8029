//! Prints docs/errors.md: every error that a client can be told.

#![allow(clippy::print_stdout)] // the document is the output

use gateway::http::{RetryAfter, error_table};

fn main() {
    println!("# Errors\n");
    println!(
        "Written by `cargo xtask docs` from the gateway's table. [The HTTP interface](http.md#errors) says how a"
    );
    println!("client is told of them.\n");
    println!("| status | `type` | `code` | retry after | when |\n| --- | --- | --- | --- | --- |");
    for spec in error_table() {
        let retry = match spec.retry_after {
            RetryAfter::Never => String::new(),
            RetryAfter::Fixed(after) => format!("{} s", after.as_secs()),
            RetryAfter::Computed => "computed".to_owned(),
        };
        let (status, kind) = (spec.status.as_u16(), spec.kind.as_str());
        println!("| {status} | `{kind}` | `{}` | {retry} | {} |", spec.code, spec.when);
    }
}
