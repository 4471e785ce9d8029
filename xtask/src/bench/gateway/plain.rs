//! The plain server, as it is started.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::load::Programs;

/// A running plain server; killed when dropped.
pub(super) struct PlainServer<'a> {
    programs: &'a Programs,
    child: Child,
    address: String,
}

impl<'a> PlainServer<'a> {
    /// Starts one whose streams get `rate` tokens a second.
    pub(super) fn start(programs: &'a Programs, rate: u32) -> Result<Self> {
        let mut child = Command::new(&programs.plain_server)
            .args(["--rate", &rate.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kr-plain-server")?;
        let output = child.stdout.take().context("its pipe was asked for")?;
        let mut server = Self { programs, child, address: String::new() };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().strip_prefix("ready http://").context("kr-plain-server is not ready")?;
        server.address = address.to_owned();
        Ok(server)
    }

    /// Runs an experiment on it.
    pub(super) fn run(&self, experiment: &[&str]) -> Result<Value> {
        Ok(self.programs.load(&self.address, "plain", self.child.id(), experiment)?.report)
    }
}

impl Drop for PlainServer<'_> {
    fn drop(&mut self) {
        // Should it be gone already, there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
