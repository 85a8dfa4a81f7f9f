//! Places in catalogue files and what is said about them.
//!
//! In: byte ranges and texts. Out: diagnostics a person can act on, rendered with the underlined
//! source. Invariant: no I/O.

/// Index of a file in [`Files`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileId(pub u32);

/// A byte range of a catalogue file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// Which file.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// The catalogue's files, by id: path relative to the directory's parent (as people type it).
#[derive(Debug, Clone, Default)]
pub struct Files {
    files: Vec<(String, String)>,
}

impl Files {
    /// Adds a file and returns its id.
    pub fn add(&mut self, path: impl Into<String>, text: impl Into<String>) -> FileId {
        let id = FileId(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        self.files.push((path.into(), text.into()));
        id
    }

    /// Path as shown to people.
    pub fn path(&self, id: FileId) -> &str {
        self.files.get(id.0 as usize).map_or("?", |f| f.0.as_str())
    }

    /// The whole text.
    pub fn text(&self, id: FileId) -> &str {
        self.files.get(id.0 as usize).map_or("", |f| f.1.as_str())
    }

    /// One-based line and column (in characters) of a byte offset.
    pub fn line_column(&self, id: FileId, at: u32) -> (usize, usize) {
        let text = self.text(id);
        let mut at = (at as usize).min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The catalogue cannot be used.
    Error,
    /// It can, but is likely not what was meant.
    Warning,
}

/// Something to tell the author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What is wrong, in one line without a final full stop.
    pub message: String,
    /// What would be right; shown under the underlined text.
    pub remedy: String,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// In the order found; rendered sorted by place.
    pub items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds an error.
    pub fn error(&mut self, place: Place, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Severity::Error, place, message.into(), remedy.into());
    }

    /// Adds a warning.
    pub fn warn(&mut self, place: Place, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Severity::Warning, place, message.into(), remedy.into());
    }

    fn push(&mut self, severity: Severity, place: Place, message: String, remedy: String) {
        let item = Diagnostic { severity, place, message, remedy };
        if !self.items.contains(&item) {
            self.items.push(item);
        }
    }

    /// Whether the catalogue cannot be used.
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|d| d.severity == Severity::Error)
    }
}
