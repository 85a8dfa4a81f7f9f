//! API keys: who may ask.
//!
//! In: a file with one key a line (`#` begins a comment), looked at every second; a request's
//! `Authorization: Bearer KEY` or `X-API-Key: KEY`. Out: whether the key is one of them.
//! Invariant: a file that cannot be read, or holds no key, leaves the known ones in force; the time a
//! comparison takes does not depend on how much of a key is right; no key is ever logged.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Bytes of the least secret that is worth the name.
const KEY_BYTES_MIN: usize = 16;

/// Bytes of a keys file.
const FILE_BYTES_MAX: u64 = 1 << 20;

type Known = Arc<Vec<Box<[u8]>>>;

/// Keys from a file, or none, which lets everybody in.
#[derive(Debug)]
pub(super) struct Keys {
    file: Option<(PathBuf, RwLock<Known>)>,
}

/// A file that gives no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read.
    #[error("serve.api_keys_file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("serve.api_keys_file {}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Keys {
    /// Reads the keys of a file; an empty path: there are none, and none are asked for.
    pub(super) fn open(path: &Path) -> Result<Self, KeysError> {
        if path.as_os_str().is_empty() {
            return Ok(Self { file: None });
        }
        let known = read(path)?;
        Ok(Self { file: Some((path.to_owned(), RwLock::new(known))) })
    }

    /// Takes over what the file holds now. True: it holds other keys than before.
    pub(super) fn reload(&self) -> Result<bool, KeysError> {
        let Some((path, known)) = &self.file else { return Ok(false) };
        let now = read(path)?;
        let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
        let differs = **known != *now;
        *known = now;
        Ok(differs)
    }

    /// Whether somebody with this key may ask.
    pub(super) fn let_in(&self, key: Option<&[u8]>) -> bool {
        let Some((_, known)) = &self.file else { return true };
        let known = Arc::clone(&known.read().unwrap_or_else(PoisonError::into_inner));
        let Some(key) = key else { return false };
        // All of them, whichever is the right one.
        known.iter().fold(false, |found, one| found | same(one, key))
    }
}

/// Whether two secrets are the same; takes as long for each `given` of a length.
fn same(known: &[u8], given: &[u8]) -> bool {
    let differs = given.iter().enumerate().fold(0, |differs, (at, byte)| {
        std::hint::black_box(differs | (known[at % known.len()] ^ byte))
    });
    (known.len() == given.len()) & (std::hint::black_box(differs) == 0)
}

fn read(path: &Path) -> Result<Known, KeysError> {
    let io = |source| KeysError::Io { path: path.to_owned(), source };
    let wrong = |reason: String| KeysError::Content { path: path.to_owned(), reason };
    if std::fs::metadata(path).map_err(io)?.len() > FILE_BYTES_MAX {
        return Err(wrong(format!("more than {FILE_BYTES_MAX} bytes: one key a line is expected")));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let mut keys: Vec<Box<[u8]>> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let key = line.split('#').next().unwrap_or_default().trim();
        if key.is_empty() {
            continue;
        }
        let line = number + 1;
        if key.len() < KEY_BYTES_MIN || key.contains(char::is_whitespace) {
            return Err(wrong(format!(
                "line {line}: a key is one word of at least {KEY_BYTES_MIN} characters; make one \
                 with `openssl rand -hex 32`"
            )));
        }
        keys.push(key.as_bytes().into());
    }
    if keys.is_empty() {
        return Err(wrong("no key is in it; make one with `openssl rand -hex 32`".to_owned()));
    }
    Ok(Arc::new(keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "0123456789abcdef0123";
    const SECOND: &str = "fedcba98765432100000";

    #[test]
    fn a_key_of_the_file_is_let_in_and_no_other() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("keys");
        std::fs::write(&path, format!("# two\n{FIRST} # shop\n\n{SECOND}\n")).expect("it is ours");
        let keys = Keys::open(&path).expect("two keys");
        assert!(keys.let_in(Some(FIRST.as_bytes())) && keys.let_in(Some(SECOND.as_bytes())));
        let twice = format!("{FIRST}{FIRST}");
        for wrong in ["", "0123456789abcdef012", "0123456789abcdef0124", &twice, "# two"] {
            assert!(!keys.let_in(Some(wrong.as_bytes())), "{wrong}");
        }
        assert!(!keys.let_in(None));
        std::fs::write(&path, format!("{SECOND}\n")).expect("it is ours");
        assert!(keys.reload().expect("one key"));
        assert!(!keys.let_in(Some(FIRST.as_bytes())) && keys.let_in(Some(SECOND.as_bytes())));
        assert!(!keys.reload().expect("one key"));
        std::fs::write(&path, "# nothing\n").expect("it is ours");
        assert!(keys.reload().expect_err("no key").to_string().contains("no key is in it"));
        assert!(keys.let_in(Some(SECOND.as_bytes())), "known keys stay");
    }

    #[test]
    fn weak_keys_are_refused_and_without_a_file_everybody_is_let_in() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("keys");
        std::fs::write(&path, "secret\n").expect("it is ours");
        let error = Keys::open(&path).expect_err("too short").to_string();
        assert!(error.contains("line 1") && !error.contains("secret"), "{error}");
        let keys = Keys::open(Path::new("")).expect("no file");
        assert!(keys.let_in(None));
    }
}
