//! A local socket beside a running engine: one process opens the store, the others ask it.
//!
//! In: one JSON line, a [`Request`]. Out: JSON lines, any number of [`Reply::Progress`] and one
//! answer. The socket is `<store.path>/tagloom.sock`, for its owner only.
//! Invariant: lines and waiting are bounded; a peer that hangs costs one thread until its deadline.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::survey::Sample;

/// Bytes of a request.
const REQUEST_BYTES_MAX: u64 = 64 << 10;

/// Bytes of an answer.
const REPLY_BYTES_MAX: u64 = 64 << 20;

/// How long a peer may take for its next line. A server at work sends progress more often.
const LINE_DEADLINE: Duration = Duration::from_secs(30);

/// Peers answered at once; more are told to come again.
const PEERS_MAX: usize = 16;

/// Progress is sent at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What a process may ask of the one that has the store open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// A user's tags.
    Get {
        /// Whose.
        uid: String,
        /// As of when; none: as the store says.
        as_of: Option<String>,
        /// Only these tags; none: all.
        select: Vec<String>,
        /// Shadow tags too.
        shadow: bool,
    },
    /// Why a user has a tag's value.
    Why {
        /// Whose.
        uid: String,
        /// Which.
        tag: String,
        /// As of when; none: as the store says.
        as_of: Option<String>,
    },
    /// Rows that could not be used.
    Rejects {
        /// Only of this stream.
        stream: Option<String>,
        /// Only for this reason.
        reason: Option<String>,
        /// The last so many.
        rows_max: usize,
    },
    /// What the store knows of its catalogues.
    Catalog {
        /// Everything of this version; 0: of the active one; none: a list.
        number: Option<u32>,
    },
    /// What a history needs to know of the store.
    HistoryPlan,
    /// Merge a history, and wait for it.
    HistoryMerge(MergeRequest),
    /// Wait for the history that is being merged.
    HistoryResume,
    /// Loaded dimension tables.
    DimsList,
    /// Load a dimension table.
    DimsLoad {
        /// Which.
        table: String,
        /// An absolute path.
        path: PathBuf,
        /// Its key column.
        key: Option<String>,
    },
    /// Write a snapshot of the store.
    Snapshot {
        /// An absolute path that is not there yet.
        dir: PathBuf,
    },
    /// A question about all users, with a catalogue of the asker's own.
    Survey {
        /// As of when; none: as the store says.
        as_of: Option<String>,
        /// Which.
        what: SurveyRequest,
    },
    /// Write all profiles to a file.
    Export {
        /// An absolute path.
        path: PathBuf,
        /// As of when; none: as stored.
        as_of: Option<String>,
        /// Only these tags; none: all.
        select: Vec<String>,
        /// What to do with closed accounts.
        #[serde(default)]
        closed: ClosedAccounts,
    },
}

/// A history to merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeRequest {
    /// The history's store, an absolute path.
    pub dir: PathBuf,
    /// Where it ends, epoch ms.
    pub cut_ms: i64,
    /// The streams it is about.
    pub streams: Vec<String>,
    /// Users a second; none: no limit.
    pub users_per_s: Option<std::num::NonZeroU32>,
}

/// What may be asked about all users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "survey", rename_all = "kebab-case")]
pub enum SurveyRequest {
    /// Do tags keep what `expect` promises of them?
    Expect {
        /// A rule directory, an absolute path.
        catalog: PathBuf,
        /// Only these tags; none: all.
        select: Vec<String>,
    },
    /// Who would have other tags?
    Diff {
        /// The rule directory that the store was written with, an absolute path.
        old: PathBuf,
        /// The other one.
        new: PathBuf,
        /// Which users.
        sample: Sample,
    },
    /// What does each tag cost, and what does it give?
    Stats {
        /// A rule directory, an absolute path.
        catalog: PathBuf,
        /// Only these tags; none: all.
        select: Vec<String>,
        /// Which users.
        sample: Sample,
    },
}

/// What becomes of closed accounts where many users are listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ClosedAccounts {
    /// They are there like all others.
    #[default]
    Include,
    /// Nobody else is.
    Only,
    /// They are not.
    LeaveOut,
}

impl ClosedAccounts {
    /// Whether an account is listed.
    pub fn lists(self, closed: bool) -> bool {
        match self {
            Self::Include => true,
            Self::Only => closed,
            Self::LeaveOut => !closed,
        }
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// So much of so much is done.
    Progress(u64, u64),
    /// The answer.
    Done(Value),
    /// It cannot be answered.
    Refused(Refusal),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What happened, and what to do.
    pub message: String,
    /// What was asked cannot be answered, whoever is asked.
    pub input: bool,
}

/// Answers requests; the second argument takes word of what is done, of how much.
pub type Handler =
    dyn Fn(Request, &mut dyn FnMut(u64, u64)) -> Result<Value, Refusal> + Send + Sync;

/// The socket of a store.
pub fn socket_path(store: &Path) -> PathBuf {
    store.join("tagloom.sock")
}

/// A socket that answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to answer at `path`. Only the process that holds the store may call this: a socket
    /// that is there was left behind by one that died, and is replaced.
    pub fn start(path: &Path, handler: Arc<Handler>) -> io::Result<Self> {
        // Under another name first: nobody sees it before it is its owner's only.
        let new = path.with_extension(format!("sock-{}", std::process::id()));
        remove_if_there(&new)?;
        let listener = UnixListener::bind(&new)?;
        let owner_only = std::fs::Permissions::from_mode(0o600);
        let placed =
            std::fs::set_permissions(&new, owner_only).and_then(|()| std::fs::rename(&new, path));
        if let Err(error) = placed {
            remove_if_there(&new)?;
            return Err(error);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("local socket".to_owned());
        let thread = thread.spawn(move || accept(&listener, &handler, &stopping))?;
        Ok(Self { path: path.to_owned(), stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the listener. When it cannot be reached it has ended, or ends with the process.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Err(error) = remove_if_there(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the local socket");
        }
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // A panic in there has been printed; there is nothing left to stop.
            drop(thread.join());
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Counts a peer for as long as it is answered.
struct Peer(Arc<AtomicUsize>);

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn accept(listener: &UnixListener, handler: &Arc<Handler>, stop: &Arc<AtomicBool>) {
    let peers = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let peer = Peer(Arc::clone(&peers));
        if peers.fetch_add(1, Ordering::AcqRel) >= PEERS_MAX {
            let message = format!("busy: {PEERS_MAX} commands are being answered; try again");
            let refused = Reply::Refused(Refusal { message, input: false });
            // A peer that has left needs no answer.
            drop(send(&mut &stream, &refused));
            continue;
        }
        let (handler, stop) = (Arc::clone(handler), Arc::clone(stop));
        let answer = move || {
            let _peer = peer;
            if let Err(error) = answer(&stream, &handler, &stop) {
                tracing::debug!(%error, "a local command left before its answer");
            }
        };
        let thread = std::thread::Builder::new().name("local peer".to_owned()).spawn(answer);
        if let Err(error) = thread {
            tracing::warn!(%error, "cannot start a thread for a local command");
        }
    }
}

fn answer(stream: &UnixStream, handler: &Arc<Handler>, stop: &AtomicBool) -> io::Result<()> {
    stream.set_read_timeout(Some(LINE_DEADLINE))?;
    stream.set_write_timeout(Some(LINE_DEADLINE))?;
    let mut out = stream;
    let reply = match receive::<Request>(&mut BufReader::new(stream), REQUEST_BYTES_MAX) {
        Ok(request) => {
            let mut watch: Option<crate::clock::Stopwatch> = None;
            let mut progress = |done, total| {
                if watch.as_ref().is_none_or(|w| w.elapsed() >= PROGRESS_EVERY) {
                    watch = Some(crate::clock::Stopwatch::start());
                    // Work that has begun is finished, whether or not somebody looks on.
                    drop(send(&mut out, &Reply::Progress(done, total)));
                }
            };
            match handler(request, &mut progress) {
                Ok(value) => Reply::Done(value),
                Err(refusal) => Reply::Refused(refusal),
            }
        }
        Err(_) if stop.load(Ordering::Acquire) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Reply::Refused(Refusal { message: format!("bad request: {error}"), input: true })
        }
        Err(error) => return Err(error),
    };
    send(&mut out, &reply)
}

/// Why asking failed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers there.
    #[error(
        "{} does not answer ({source}): the process that has the store open is no `tagloom run`, \
         or is just starting or ending; try again", path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It broke off.
    #[error(
        "the process that has the store open broke off ({0}); did it end? see `tagloom run`'s log"
    )]
    Lost(io::Error),
    /// It refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Asks the process that answers at `path`. `progress` is told what is done, of how much.
pub fn ask(
    path: &Path,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Value, AskError> {
    let unreachable = |source| AskError::Unreachable { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).map_err(unreachable)?;
    let deadline = Some(LINE_DEADLINE);
    stream.set_read_timeout(deadline).map_err(AskError::Lost)?;
    stream.set_write_timeout(deadline).map_err(AskError::Lost)?;
    send(&mut &stream, request).map_err(AskError::Lost)?;
    let mut lines = BufReader::new(&stream);
    loop {
        match receive::<Reply>(&mut lines, REPLY_BYTES_MAX).map_err(AskError::Lost)? {
            Reply::Progress(done, total) => progress(done, total),
            Reply::Done(value) => return Ok(value),
            Reply::Refused(refusal) => return Err(refusal.into()),
        }
    }
}

fn send(out: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

fn receive<T: serde::de::DeserializeOwned>(
    from: &mut impl BufRead,
    bytes_max: u64,
) -> io::Result<T> {
    let mut line = Vec::new();
    from.take(bytes_max).read_until(b'\n', &mut line)?;
    let bad = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    if line.last() != Some(&b'\n') {
        if line.len() as u64 == bytes_max {
            return Err(bad(format!("a line of more than {bytes_max} bytes")));
        }
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&line).map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> Arc<Handler> {
        Arc::new(|request, progress| {
            progress(1, 2);
            match request {
                Request::DimsList => {
                    Err(Refusal { message: "none of those".to_owned(), input: true })
                }
                other => Ok(serde_json::to_value(other).expect("a request is JSON")),
            }
        })
    }

    fn get(uid: &str) -> Request {
        Request::Get { uid: uid.to_owned(), as_of: None, select: Vec::new(), shadow: false }
    }

    #[test]
    fn an_answer_comes_back_with_progress() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = socket_path(dir.path());
        let _server = Server::start(&path, echo()).expect("the folder is there");
        let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut seen = Vec::new();
        let answer = ask(&path, &get("7"), &mut |done, total| seen.push((done, total)));
        assert_eq!(answer.expect("answered")["uid"], "7");
        assert_eq!(seen, [(1, 2)]);
        match ask(&path, &Request::DimsList, &mut |_, _| {}) {
            Err(AskError::Refused(refusal)) => assert!(refusal.input),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_the_own_one_removed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = socket_path(dir.path());
        drop(UnixListener::bind(&path).expect("the folder is there"));
        assert!(matches!(ask(&path, &get("7"), &mut |_, _| {}), Err(AskError::Unreachable { .. })));
        let server = Server::start(&path, echo()).expect("the folder is there");
        assert!(ask(&path, &get("7"), &mut |_, _| {}).is_ok());
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = socket_path(dir.path());
        let _server = Server::start(&path, echo()).expect("the folder is there");
        let mut stream = UnixStream::connect(&path).expect("it answers");
        let junk = vec![b'x'; usize::try_from(REQUEST_BYTES_MAX).expect("small")];
        stream.write_all(&junk).expect("it reads");
        match receive::<Reply>(&mut BufReader::new(&stream), REPLY_BYTES_MAX) {
            Ok(Reply::Refused(refusal)) => assert!(refusal.message.contains("more than")),
            other => panic!("{other:?}"),
        }
    }
}
