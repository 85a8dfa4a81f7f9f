//! One connection to a gateway.
//!
//! In: an address and timeouts. Out: a client over buffered transport and strict binary protocol.
//! Invariant: no read or write waits longer than its timeout, and small calls leave at once
//! (NODELAY: without it a call takes 40 ms).

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use hbase_thrift::hbase::HbaseSyncClient;
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::transport::{
    ReadHalf, TBufferedReadTransport, TBufferedWriteTransport, TIoChannel, TTcpChannel, WriteHalf,
};

use crate::clock::Stopwatch;

/// Bytes that are sent and received at once.
const BUFFER_BYTES: usize = 64 << 10;

type Input = TBinaryInputProtocol<TBufferedReadTransport<ReadHalf<TTcpChannel>>>;
type Output = TBinaryOutputProtocol<TBufferedWriteTransport<WriteHalf<TTcpChannel>>>;

/// The generated client.
pub(super) type Client = HbaseSyncClient<Input, Output>;

/// An open connection.
pub(super) struct Connection {
    pub(super) client: Client,
    socket: TcpStream,
    used: Stopwatch,
}

impl Connection {
    /// Connects to `host:port`: to each of its addresses until one answers.
    pub(super) fn open(gateway: &str, timeout: Duration) -> io::Result<Self> {
        let mut error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in gateway.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(socket) => return Self::over(socket),
                Err(refused) => error = refused,
            }
        }
        Err(error)
    }

    fn over(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let channel = TTcpChannel::with_stream(socket.try_clone()?);
        let (read, write) = channel.split().map_err(io::Error::other)?;
        let read = TBufferedReadTransport::with_capacity(BUFFER_BYTES, read);
        let write = TBufferedWriteTransport::with_capacity(BUFFER_BYTES, write);
        let input = TBinaryInputProtocol::new(read, true);
        let output = TBinaryOutputProtocol::new(write, true);
        let client = HbaseSyncClient::new(input, output);
        Ok(Self { client, socket, used: Stopwatch::start() })
    }

    /// Bounds what follows: each read and write of the next call.
    pub(super) fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        // Zero would mean: wait for ever.
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        self.socket.set_read_timeout(timeout)?;
        self.socket.set_write_timeout(timeout)?;
        self.used.lap();
        Ok(())
    }

    /// Time since the last call.
    pub(super) fn idle(&self) -> Duration {
        self.used.elapsed()
    }
}
