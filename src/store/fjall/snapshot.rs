//! Snapshots of the embedded store: all of it as of one instant, in a directory of its own.
//!
//! In: an open store, which goes on. Out: a file a keyspace (rows by key, compressed), and a manifest that
//! is written last. A restore makes a store of them beside its place and moves it there whole.
//!
//! | file | |
//! |---|---|
//! | `manifest.json` | version, the store's identity, and for each file its keyspace, rows, bytes and checksum |
//! | `NNN.zst` | rows: length of the key and of the value (32 bits each, little endian), key, value |
//!
//! Invariant: a directory without manifest is no snapshot, and a store that was not restored whole is no
//! store; nothing that is there is overwritten.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use serde::{Deserialize, Serialize};

use super::{FjallOptions, FjallStore, HEADER_KEY, dims, profile_rows, small_values, store_error};
use crate::store::{DimState, FORMAT_VERSION, Identity, META_PREFIX_DIMS, Result, StoreError};
use crate::user::layout::hash64;

/// The version of the files.
const SNAPSHOT_VERSION: u32 = 1;

/// The manifest's name.
const MANIFEST: &str = "manifest.json";

/// Bytes that are hashed at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Bytes of the longest key or value: beyond it a length is damage.
const CELL_BYTES_MAX: u32 = 1 << 30;

/// Of zstd: the fastest that makes profiles a good deal smaller.
const LEVEL: i32 = 1;

/// Rows between two words of progress.
const TELL_EVERY_ROWS: u64 = 4_096;

/// Looks at keyspaces while others come and go.
const TRIES: u32 = 5;

/// A snapshot as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the files.
    pub version: u32,
    /// The format of the store that was written.
    pub format: u32,
    /// Its identity.
    pub identity: Identity,
    /// When it was taken, epoch ms by the machine's clock.
    pub taken_ms: i64,
    /// The files.
    pub files: Vec<SnapshotFile>,
}

/// One keyspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// The file's name.
    pub name: String,
    /// What it holds.
    pub keyspace: String,
    /// Its rows.
    pub rows: u64,
    /// Their bytes, lengths included.
    pub bytes: u64,
    /// Hash of those bytes, hexadecimal.
    pub checksum: String,
}

impl Manifest {
    /// Rows of all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// Profiles.
    pub fn profiles(&self) -> u64 {
        self.files.iter().filter(|f| f.keyspace == "profile").map(|f| f.rows).sum()
    }

    /// Reads the manifest of a snapshot.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let reason =
                    "it has no manifest.json, which is written last: it was not finished, or \
                              is none"
                        .to_owned();
                return Err(StoreError::NoSnapshot { path: dir.to_owned(), reason });
            }
            read => read.map_err(|e| StoreError::io(&path, e))?,
        };
        let damaged = |e: serde_json::Error| StoreError::NoSnapshot {
            path: dir.to_owned(),
            reason: format!("manifest.json cannot be read ({e})"),
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(damaged)?;
        if manifest.version > SNAPSHOT_VERSION || manifest.format > FORMAT_VERSION {
            return Err(StoreError::NewerFormat {
                path: dir.to_owned(),
                stored: format!("{} (snapshot {})", manifest.format, manifest.version),
                known: FORMAT_VERSION,
            });
        }
        Ok(manifest)
    }
}

/// Told what is done, of how much.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Writes a snapshot of the store into a directory that is not there yet.
pub(super) fn take(store: &FjallStore, dir: &Path, progress: Progress<'_>) -> Result<Manifest> {
    let io = |e| StoreError::io(dir, e);
    if dir.try_exists().map_err(io)? {
        return Err(StoreError::Exists { path: dir.to_owned() });
    }
    let making = making(dir);
    if making.try_exists().map_err(io)? {
        // What one that was killed has left.
        std::fs::remove_dir_all(&making).map_err(io)?;
    }
    std::fs::create_dir_all(&making).map_err(|e| StoreError::io(&making, e))?;
    let (snapshot, keyspaces) = open_all(store)?;
    let total: u64 = keyspaces.iter().map(|(_, k)| k.approximate_len() as u64).sum();
    let (mut files, mut done) = (Vec::new(), 0);
    for (at, (name, keyspace)) in keyspaces.into_iter().enumerate() {
        let file = SnapshotFile {
            name: format!("{at:03}.zst"),
            keyspace: name,
            ..SnapshotFile::default()
        };
        let mut tell = |rows: u64| progress(done + rows, total.max(done + rows));
        let file = write_file(store, &snapshot, &keyspace, &making, file, &mut tell)?;
        done += file.rows;
        files.push(file);
    }
    let manifest = Manifest {
        version: SNAPSHOT_VERSION,
        format: FORMAT_VERSION,
        identity: store.identity.clone(),
        taken_ms: crate::clock::wall_ms(),
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest).expect("texts and numbers are always JSON");
    let path = making.join(MANIFEST);
    let mut file = File::create(&path).map_err(|e| StoreError::io(&path, e))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(|e| StoreError::io(&path, e))?;
    sync_dir(&making)?;
    std::fs::rename(&making, dir).map_err(io)?;
    sync_dir(dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    progress(done, done);
    Ok(manifest)
}

/// `DIR.new` for `DIR`, written with a slash at its end or not.
fn making(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    dir.with_file_name(name)
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| StoreError::io(dir, e))
}

type Keyspaces = Vec<(String, Keyspace)>;

/// One instant of all keyspaces. Dimension tables may be loaded meanwhile: epochs that the instant knows
/// and that are gone a moment later mean to look once more.
fn open_all(store: &FjallStore) -> Result<(Snapshot, Keyspaces)> {
    let mut missing = String::new();
    for _ in 0..TRIES {
        let snapshot = store.db.snapshot();
        let keyspaces = existing(store)?;
        match missing_epoch(store, &snapshot, &keyspaces)? {
            None => return Ok((snapshot, keyspaces)),
            Some(name) => missing = name,
        }
    }
    Err(StoreError::Corrupt {
        what: format!("the store {} ({missing} is not there)", store.path.display()),
        remedy: "load that dimension table again".to_owned(),
    })
}

fn existing(store: &FjallStore) -> Result<Keyspaces> {
    let mut keyspaces = Vec::new();
    for name in store.db.list_keyspace_names() {
        // Asked first: `keyspace` would make what has gone meanwhile.
        if store.db.keyspace_exists(&name) {
            let keyspace = store.db.keyspace(&name, dims::options).map_err(|e| store.error(e))?;
            keyspaces.push((name.to_string(), keyspace));
        }
    }
    keyspaces.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(keyspaces)
}

fn missing_epoch(
    store: &FjallStore,
    snapshot: &Snapshot,
    keyspaces: &[(String, Keyspace)],
) -> Result<Option<String>> {
    for guard in snapshot.prefix(&store.meta, META_PREFIX_DIMS) {
        let (key, value) = guard.into_inner().map_err(|e| store.error(e))?;
        let key = String::from_utf8_lossy(&key).into_owned();
        let table = key.strip_prefix(META_PREFIX_DIMS).unwrap_or_default();
        for meta in DimState::decode(table, &value)?.epochs {
            let name = dims::rows_name(table, meta.epoch);
            if !keyspaces.iter().any(|(known, _)| *known == name) {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

fn write_file(
    store: &FjallStore,
    snapshot: &Snapshot,
    keyspace: &Keyspace,
    dir: &Path,
    mut file: SnapshotFile,
    tell: &mut dyn FnMut(u64),
) -> Result<SnapshotFile> {
    let path = dir.join(&file.name);
    let io = |e| StoreError::io(&path, e);
    let out = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(io)?);
    let mut out = zstd::Encoder::new(out, LEVEL).map_err(io)?;
    out.include_checksum(true).map_err(io)?;
    let (mut checksum, mut chunk) = (Checksum::default(), Vec::with_capacity(2 * CHUNK_BYTES));
    for guard in snapshot.iter(keyspace) {
        let (key, value) = guard.into_inner().map_err(|e| store.error(e))?;
        for cell in [&key, &value] {
            let bytes = u32::try_from(cell.len()).unwrap_or(u32::MAX);
            chunk.extend_from_slice(&bytes.to_le_bytes());
        }
        chunk.extend_from_slice(&key);
        chunk.extend_from_slice(&value);
        file.rows += 1;
        if chunk.len() >= CHUNK_BYTES {
            checksum.add(&chunk);
            out.write_all(&chunk).map_err(io)?;
            chunk.clear();
        }
        if file.rows.is_multiple_of(TELL_EVERY_ROWS) {
            tell(file.rows);
        }
    }
    checksum.add(&chunk);
    out.write_all(&chunk).map_err(io)?;
    let done = out.finish().and_then(|buffered| buffered.into_inner().map_err(Into::into));
    done.and_then(|file| file.sync_all()).map_err(io)?;
    file.bytes = checksum.bytes;
    file.checksum = checksum.text();
    Ok(file)
}

/// A hash of bytes, whatever pieces they come in: of chunks of one size.
#[derive(Debug, Default)]
struct Checksum {
    hash: u64,
    bytes: u64,
    open: Vec<u8>,
}

impl Checksum {
    fn add(&mut self, mut piece: &[u8]) {
        self.bytes += piece.len() as u64;
        while !piece.is_empty() {
            let room = CHUNK_BYTES - self.open.len();
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.open.extend_from_slice(now);
            piece = later;
            if self.open.len() == CHUNK_BYTES {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let both = [self.hash, hash64(&self.open)].map(u64::to_le_bytes);
        self.hash = hash64(both.as_flattened());
        self.open.clear();
    }

    fn text(&mut self) -> String {
        if !self.open.is_empty() {
            self.close();
        }
        format!("{:016x}", self.hash)
    }
}

/// Makes the store at `path` of a snapshot. `given`: what the store is going to be opened with.
pub(super) fn restore(
    path: &Path,
    from: &Path,
    given: Option<&Identity>,
    options: &FjallOptions,
    progress: Progress<'_>,
) -> Result<Manifest> {
    let manifest = Manifest::read(from)?;
    if let Some(given) = given {
        manifest.identity.check(from, given)?;
    }
    let io = |e| StoreError::io(path, e);
    let data = path.join("fjall");
    if data.try_exists().map_err(io)? {
        return Err(StoreError::Exists { path: path.to_owned() });
    }
    let making = path.join("fjall.restoring");
    if making.try_exists().map_err(io)? {
        std::fs::remove_dir_all(&making).map_err(io)?;
    }
    std::fs::create_dir_all(&making).map_err(io)?;
    fill(&making, from, &manifest, options, progress)?;
    // Opens as any other store does.
    drop(FjallStore::open_data(path, &making, given, options)?);
    std::fs::rename(&making, &data).map_err(io)?;
    sync_dir(path)?;
    Ok(manifest)
}

fn fill(
    making: &Path,
    from: &Path,
    manifest: &Manifest,
    options: &FjallOptions,
    progress: Progress<'_>,
) -> Result<()> {
    let error = |e| store_error(making, e);
    let db = Database::builder(making)
        .cache_size(options.cache_bytes)
        .worker_threads(options.worker_threads.max(1))
        .manual_journal_persist(true)
        .open()
        .map_err(error)?;
    let (mut done, total) = (0, manifest.rows());
    for file in &manifest.files {
        let created = || options_of(&file.keyspace, options);
        let keyspace = db.keyspace(&file.keyspace, created).map_err(error)?;
        let mut tell = |rows: u64| progress(done + rows, total);
        read_file(making, from, file, &keyspace, &mut tell)?;
        done += file.rows;
    }
    let meta = db.keyspace("meta", small_values).map_err(error)?;
    if meta.get(HEADER_KEY).map_err(error)?.is_none() {
        let reason = "it holds no store's header".to_owned();
        return Err(StoreError::NoSnapshot { path: from.to_owned(), reason });
    }
    db.persist(PersistMode::SyncAll).map_err(error)?;
    progress(total, total);
    Ok(())
}

fn options_of(keyspace: &str, options: &FjallOptions) -> KeyspaceCreateOptions {
    match keyspace {
        "profile" => profile_rows(options),
        "meta" | "due" | "reject" => small_values(),
        _ => dims::options(),
    }
}

fn read_file(
    making: &Path,
    from: &Path,
    file: &SnapshotFile,
    keyspace: &Keyspace,
    tell: &mut dyn FnMut(u64),
) -> Result<()> {
    let path = from.join(&file.name);
    let damaged = |reason: String| StoreError::NoSnapshot { path: path.clone(), reason };
    let io = |e: io::Error| match e.kind() {
        io::ErrorKind::PermissionDenied => StoreError::io(&path, e),
        _ => damaged(format!("it is damaged ({e}): take another snapshot")),
    };
    let input = BufReader::with_capacity(1 << 20, File::open(&path).map_err(io)?);
    let mut input = BufReader::new(zstd::Decoder::new(input).map_err(io)?);
    let mut checksum = Checksum::default();
    let error = |e| store_error(making, e);
    let mut ingestion = keyspace.start_ingestion().map_err(error)?;
    let mut last: Option<Vec<u8>> = None;
    for row in 0..file.rows {
        let [key_bytes, value_bytes] = [(); 2].map(|()| {
            let mut bytes = [0; 4];
            input.read_exact(&mut bytes).map(|()| bytes)
        });
        let (key_bytes, value_bytes) = (key_bytes.map_err(io)?, value_bytes.map_err(io)?);
        checksum.add(&key_bytes);
        checksum.add(&value_bytes);
        let damaged_row = || damaged(format!("row {row} is damaged: take another snapshot"));
        let mut cell = |bytes: [u8; 4]| {
            let bytes = u32::from_le_bytes(bytes);
            if bytes > CELL_BYTES_MAX {
                return Err(damaged_row());
            }
            let mut cell = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
            input.read_exact(&mut cell).map_err(io)?;
            checksum.add(&cell);
            Ok(cell)
        };
        let (key, value) = (cell(key_bytes)?, cell(value_bytes)?);
        // The checksum is known at the end only, and fjall panics at keys that are none or do not ascend.
        let is_key = !key.is_empty() && key.len() <= usize::from(u16::MAX);
        if !is_key || last.as_ref().is_some_and(|last| *last >= key) {
            return Err(damaged_row());
        }
        ingestion.write(key.as_slice(), value).map_err(error)?;
        last = Some(key);
        if row.is_multiple_of(TELL_EVERY_ROWS) {
            tell(row);
        }
    }
    // The end: zstd compares its own checksum there.
    let more = input.read(&mut [0]).map_err(io)?;
    if more > 0 || checksum.bytes != file.bytes || checksum.text() != file.checksum {
        return Err(damaged("it is not what manifest.json says: take another snapshot".to_owned()));
    }
    ingestion.finish().map_err(error)
}
