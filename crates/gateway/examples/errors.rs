//! Prints docs/errors.md: every error that a client can be told.

#![allow(clippy::print_stdout)] // the document is the output

use gateway::http::error_table;

fn main() {
    println!("# Errors\n");
    println!(
        "Written by `cargo xtask docs` from the gateway's table. [The HTTP interface](http.md#errors) says how a"
    );
    println!("client is told of them.\n");
    println!("| status | `type` | `code` | retry after | when |\n| --- | --- | --- | --- | --- |");
    for spec in error_table() {
        let retry = spec.retry_after.map_or_else(String::new, |after| format!("{} s", after.as_secs()));
        let (status, kind) = (spec.status.as_u16(), spec.kind.as_str());
        println!("| {status} | `{kind}` | `{}` | {retry} | {} |", spec.code, spec.when);
    }
}
