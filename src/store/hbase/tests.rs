//! Calls over real sockets to a gateway that does as it is told.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hbase_thrift::hbase::{IOError, IllegalArgument, THbaseSyncClient};
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TFieldIdentifier, TInputProtocol, TListIdentifier,
    TMessageIdentifier, TMessageType, TOutputProtocol, TStructIdentifier, TType,
};

use super::failure::Failure;
use super::options::HbaseOptions;
use super::pool::Pool;
use crate::clock::Stopwatch;

/// What the gateway does with a call of `getTableNames`.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// One table.
    Answer,
    /// HBase cannot.
    IoError(&'static str),
    /// A wrong argument.
    Illegal,
    /// Closes the connection.
    Close,
    /// Bytes that name a text of 2 GB less one.
    Garbage,
    /// Nothing, for as long as the client waits.
    Silence,
}

struct Fake {
    address: String,
    connections: Arc<AtomicUsize>,
    left: Arc<Mutex<VecDeque<Act>>>,
}

impl Fake {
    /// A gateway that acts so; then it answers.
    fn start(acts: &[Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let left = Arc::new(Mutex::new(acts.iter().copied().collect::<VecDeque<_>>()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (acts, count) = (Arc::clone(&left), Arc::clone(&connections));
        // Ends with the test's process: `accept` has no end of its own.
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let acts = Arc::clone(&acts);
                std::thread::spawn(move || serve(&socket, &acts).ok());
            }
        });
        Self { address, connections, left }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn acts_left(&self) -> usize {
        self.left.lock().unwrap().len()
    }
}

fn serve(socket: &TcpStream, acts: &Mutex<VecDeque<Act>>) -> thrift::Result<()> {
    let mut input = TBinaryInputProtocol::new(socket, true);
    loop {
        let call = input.read_message_begin()?;
        input.skip(TType::Struct)?;
        input.read_message_end()?;
        let act = acts.lock().unwrap().pop_front().unwrap_or(Act::Answer);
        let mut output = TBinaryOutputProtocol::new(Vec::new(), true);
        let reply =
            TMessageIdentifier::new("getTableNames", TMessageType::Reply, call.sequence_number);
        output.write_message_begin(&reply)?;
        output.write_struct_begin(&TStructIdentifier::new("result"))?;
        match act {
            Act::Answer => {
                output.write_field_begin(&TFieldIdentifier::new("success", TType::List, 0))?;
                output.write_list_begin(&TListIdentifier::new(TType::String, 1))?;
                output.write_bytes(b"one")?;
            }
            Act::IoError(message) => {
                output.write_field_begin(&TFieldIdentifier::new("io", TType::Struct, 1))?;
                let error = IOError { message: Some(message.to_owned()), can_retry: None };
                error.write_to_out_protocol(&mut output)?;
            }
            Act::Illegal => {
                output.write_field_begin(&TFieldIdentifier::new("io", TType::Struct, 1))?;
                let message = Some("java.lang.IllegalArgumentException: no row".to_owned());
                IllegalArgument { message }.write_to_out_protocol(&mut output)?;
            }
            Act::Close => return Ok(()),
            Act::Garbage => {
                let mut socket = socket;
                socket.write_all(&[0x80, 1, 0, 2, 0xff, 0xff, 0xff, 0xff])?;
                continue;
            }
            Act::Silence => continue,
        }
        output.write_field_stop()?;
        output.write_message_end()?;
        let mut socket = socket;
        socket.write_all(output.transport.as_slice())?;
    }
}

fn options(gateways: &[&Fake]) -> HbaseOptions {
    let addresses: Vec<&str> = gateways.iter().map(|fake| fake.address.as_str()).collect();
    HbaseOptions {
        gateways: addresses.join(","),
        connections: 1,
        call_timeout_ms: 300,
        deadline_ms: 20_000,
        ..HbaseOptions::default()
    }
}

fn call(pool: &Pool) -> Result<Vec<Vec<u8>>, Failure> {
    pool.submit("tables", |client| client.get_table_names())?.wait()
}

/// After these acts a call succeeds, over so many connections.
#[track_caller]
fn check(acts: &[Act], connections: usize) {
    let fake = Fake::start(acts);
    let pool = Pool::start(&options(&[&fake])).unwrap();
    assert_eq!(call(&pool), Ok(vec![b"one".to_vec()]), "{acts:?}");
    assert_eq!((fake.connections(), fake.acts_left()), (connections, 0), "{acts:?}");
    assert_eq!(pool.outage(), None);
}

#[test]
fn an_error_of_hbase_keeps_the_connection_one_of_the_transport_does_not() {
    check(&[], 1);
    check(&[Act::IoError("gone"), Act::IoError("still gone")], 1);
    check(&[Act::Close], 2);
    check(&[Act::Garbage], 2);
    check(&[Act::Silence], 2);
    check(&[Act::Close, Act::IoError("gone"), Act::Silence], 3);
}

#[test]
fn what_is_refused_for_good_is_not_tried_again() {
    let acts = [Act::Illegal, Act::IoError("TableNotFoundException: t"), Act::Answer];
    let fake = Fake::start(&acts);
    let pool = Pool::start(&options(&[&fake])).unwrap();
    let refused = call(&pool);
    assert!(matches!(&refused, Err(Failure::Refused(r)) if r.contains("no row")), "{refused:?}");
    assert!(matches!(call(&pool), Err(Failure::NoTable(_))));
    assert_eq!((fake.acts_left(), fake.connections(), pool.outage()), (1, 1, None));
}

#[test]
fn the_next_gateway_takes_over() {
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let fake = Fake::start(&[]);
    let options = options(&[&fake]);
    let gateways = format!("{gone},{}", options.gateways);
    let pool = Pool::start(&HbaseOptions { gateways, ..options }).unwrap();
    assert!(call(&pool).is_ok() && call(&pool).is_ok());
    assert_eq!(fake.connections(), 1);
}

#[test]
fn a_call_is_given_up_at_its_deadline_and_the_next_at_once() {
    let fake = Fake::start(&[Act::Silence; 50]);
    let options = HbaseOptions { deadline_ms: 1_000, ..options(&[&fake]) };
    let pool = Pool::start(&options).unwrap();
    let watch = Stopwatch::start();
    let error = call(&pool).unwrap_err();
    assert!(error.reason().contains("no answer from the gateway in time"), "{error:?}");
    assert!(watch.elapsed() < Duration::from_secs(5), "{:?}", watch.elapsed());
    let attempts = fake.acts_left();
    assert!(attempts < 48, "it tried more than once: {attempts} left of 50");
    // The circuit is open: no attempt is made.
    let error = call(&pool).unwrap_err();
    assert!(matches!(&error, Failure::Connection(reason) if reason.contains("(for ")), "{error:?}");
    assert_eq!(fake.acts_left(), attempts);
    assert!(pool.outage().is_some());

    fake.left.lock().unwrap().clear();
    let watch = Stopwatch::start();
    while call(&pool).is_err() {
        assert!(watch.elapsed() < Duration::from_secs(20), "it never works again");
        std::thread::yield_now();
    }
    assert_eq!(pool.outage(), None);
}
