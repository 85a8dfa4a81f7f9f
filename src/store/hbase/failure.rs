//! What an error of the gateway means.
//!
//! In: thrift's errors. Out: [`Failure`]: whether the connection is still good, whether to try again,
//! and a reason of one line without Java stacks.
//! Invariant: what is not known to be refused for good is tried again.

use hbase_thrift::hbase::{AlreadyExists, IOError, IllegalArgument};
use thrift::ApplicationErrorKind;

/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 300;

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The bytes of this connection can no longer be trusted: drop it, try again with another.
    Connection(String),
    /// HBase behind the gateway cannot just now: the connection is good, try again.
    Server(String),
    /// The table or one of its families is not there.
    NoTable(String),
    /// It is there already.
    Exists,
    /// The same call will never succeed.
    Refused(String),
}

/// Words in an IOError by which HBase says that it will not do better next time. Its general
/// `DoNotRetryIOException` is not among them: scanners that were lost in a restart say so too.
const REFUSED: [&str; 7] = [
    "KeyValue size too large",
    "exceeds limit of",
    "IllegalArgumentException",
    "FailedSanityCheckException",
    "AccessDeniedException",
    "InvalidFamilyOperationException",
    "is > 32767",
];

const NO_TABLE: [&str; 3] =
    ["TableNotFoundException", "NoSuchColumnFamilyException", "NamespaceNotFoundException"];

impl Failure {
    pub(super) fn of(error: &thrift::Error) -> Self {
        match error {
            thrift::Error::Transport(error) => Self::Connection(transport(&error.message)),
            thrift::Error::Protocol(error) => Self::Connection(format!(
                "the answer is no Thrift 1 in binary protocol ({}); does the gateway run buffered \
                 (`hbase thrift start -threadpool`), not -c, -f or thrift2?",
                shorten(&error.message)
            )),
            thrift::Error::Application(error)
                if error.kind == ApplicationErrorKind::UnknownMethod =>
            {
                Self::Refused(format!(
                    "the gateway does not know the call ({}); it must be `hbase thrift`, not thrift2",
                    shorten(&error.message)
                ))
            }
            thrift::Error::Application(error) => Self::Connection(shorten(&error.message)),
            thrift::Error::User(error) => {
                if let Some(error) = error.downcast_ref::<IOError>() {
                    return Self::of_message(error.message.as_deref().unwrap_or(""));
                }
                if let Some(error) = error.downcast_ref::<IllegalArgument>() {
                    return Self::Refused(shorten(error.message.as_deref().unwrap_or("")));
                }
                if error.downcast_ref::<AlreadyExists>().is_some() {
                    return Self::Exists;
                }
                Self::Connection(shorten(&error.to_string()))
            }
        }
    }

    fn of_message(message: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
        let reason = shorten(message);
        if has(&NO_TABLE) {
            Self::NoTable(reason)
        } else if message.contains("TableExistsException") {
            Self::Exists
        } else if has(&REFUSED) {
            Self::Refused(reason)
        } else {
            Self::Server(reason)
        }
    }

    /// The reason, for messages.
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Connection(reason)
            | Self::Server(reason)
            | Self::NoTable(reason)
            | Self::Refused(reason) => reason,
            Self::Exists => "it exists already",
        }
    }

    /// As the label `outcome` of metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Connection(_) => "connection",
            Self::Server(_) => "server",
            Self::NoTable(_) => "no-table",
            Self::Exists => "exists",
            Self::Refused(_) => "refused",
        }
    }
}

/// Linux says "Resource temporarily unavailable" when a socket's timeout is over.
fn transport(message: &str) -> String {
    if message.contains("os error 11") {
        return "no answer from the gateway in time (store.hbase.call_timeout_ms)".to_owned();
    }
    shorten(message)
}

/// The first lines of a Java stack that say something: exceptions, without packages and frames.
pub(super) fn shorten(message: &str) -> String {
    let said = message.lines().map(str::trim).filter(|line| {
        let frame = line.starts_with("at ") && line.contains('(');
        !line.is_empty() && !frame && !line.starts_with("... ")
    });
    let mut text = String::new();
    let mut last = String::new();
    for line in said {
        let line = line.strip_prefix("Caused by: ").unwrap_or(line);
        let line = without_packages(line);
        // A cause repeats what the exception around it quotes.
        if last.contains(&line) || line.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&line);
        last = line;
        if text.chars().count() > REASON_CHARS_MAX {
            break;
        }
    }
    match text.char_indices().nth(REASON_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None if text.is_empty() => "no reason given".to_owned(),
        None => text,
    }
}

/// `org.apache.hadoop.hbase.TableNotFoundException: x` as `TableNotFoundException: x`.
fn without_packages(line: &str) -> String {
    let word = |word: &str| {
        let cut = ["org.apache.", "java.", "javax."].iter().any(|p| word.starts_with(p));
        let name = word.find(|c: char| c.is_ascii_uppercase()).filter(|_| cut);
        name.map_or(word.to_owned(), |at| word[at..].to_owned())
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(message: &str) -> Failure {
        let error = IOError { message: Some(message.to_owned()), can_retry: Some(true) };
        Failure::of(&thrift::Error::from(error))
    }

    const STACK: &str = "org.apache.hadoop.hbase.client.RetriesExhaustedException: Failed after \
        attempts=4, exceptions:\n2026-01-01T00:00:00Z, java.net.ConnectException: Call to \
        localhost:16020 failed\n\tat org.apache.hadoop.hbase.client.RpcRetryingCallerImpl.call(X.java:1)\
        \n\tat java.base/java.lang.Thread.run(Thread.java:840)\nCaused by: java.io.IOException: gone";

    #[test]
    fn stacks_become_one_line() {
        let expect = "RetriesExhaustedException: Failed after attempts=4, exceptions:; \
                      2026-01-01T00:00:00Z, ConnectException: Call to localhost:16020 failed; \
                      IOException: gone";
        assert_eq!(shorten(STACK), expect);
        assert_eq!(shorten("\n \n"), "no reason given");
        let long = shorten(&"é".repeat(5_000));
        assert_eq!(long.chars().count(), REASON_CHARS_MAX + 3);
    }

    #[test]
    fn what_may_get_better_is_told_from_what_will_not() {
        assert!(matches!(io(STACK), Failure::Server(_)));
        let scanner = "org.apache.hadoop.hbase.DoNotRetryIOException: UnknownScannerException";
        assert!(matches!(io(scanner), Failure::Server(_)));
        let table = "org.apache.hadoop.hbase.TableNotFoundException: tagloom_due";
        assert_eq!(io(table), Failure::NoTable("TableNotFoundException: tagloom_due".to_owned()));
        let cell = "java.lang.IllegalArgumentException: KeyValue size too large";
        assert!(matches!(io(cell), Failure::Refused(_)));
        let argument = IllegalArgument { message: Some("Row length is 0".to_owned()) };
        let refused = Failure::of(&thrift::Error::from(argument));
        assert_eq!(refused, Failure::Refused("Row length is 0".to_owned()));
    }

    #[test]
    fn a_connection_that_timed_out_is_dropped() {
        let timed_out = std::io::Error::from_raw_os_error(11);
        let failure = Failure::of(&thrift::Error::from(timed_out));
        assert!(matches!(&failure, Failure::Connection(r) if r.contains("in time")), "{failure:?}");
        let protocol = thrift::new_protocol_error(thrift::ProtocolErrorKind::BadVersion, "bad");
        assert!(matches!(Failure::of(&protocol), Failure::Connection(_)));
    }
}
