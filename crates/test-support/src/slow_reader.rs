//! A client that reads its stream only when the test says so.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt::set_socket_recv_buffer_size};
use serde_json::Value;

use crate::Client;

/// Bytes that the system takes for it: little, so that what it does not read soon stops the sender.
const BUFFER: usize = 4096;

/// Longer than anything takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A streamed request of which nothing has been read.
pub struct SlowReader {
    lines: BufReader<TcpStream>,
}

impl SlowReader {
    /// Sends a request and reads nothing.
    ///
    /// # Panics
    /// The gateway can't be reached.
    pub fn post(client: &Client, path: &str, body: &Value) -> Self {
        let address: SocketAddr = client.address().parse().unwrap();
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket(family, SocketType::STREAM, None).unwrap();
        // Before it connects: the sender learns of it then.
        set_socket_recv_buffer_size(&socket, BUFFER).unwrap();
        connect(&socket, &address).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        Self { lines: BufReader::new(stream) }
    }

    /// Data of the events that come until the stream ends.
    ///
    /// # Panics
    /// It does not end.
    pub fn rest(self) -> Vec<String> {
        let lines = self.lines.lines().map(Result::unwrap);
        lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_string)).collect()
    }
}
