//! Every mistake an author can make gives a message with its place and remedy.
//!
//! Each file of `tests/mistakes/` holds catalogue files that are laid over `tests/mistakes/base/`,
//! and the message that comes of it. `UPDATE_GOLDEN=1 cargo test --test catalog_mistakes` rewrites
//! the messages.
#![expect(clippy::unwrap_used, reason = "a broken test file should stop the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tagloom::catalog::{LoadError, load_from, render};

const EXPECTED: &str = "message";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes")
}

/// Path inside the catalogue -> text.
type Texts = BTreeMap<String, String>;

fn base() -> Texts {
    let root = folder().join("base");
    let mut texts = Texts::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let inside = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                texts.insert(inside, fs::read_to_string(path).unwrap());
            }
        }
    }
    texts
}

/// The sections of a mistake: `=== path`, then the file's text; `=== message` comes last.
fn sections(text: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("=== ") {
            Some(name) => sections.push((name.trim().to_owned(), String::new())),
            None => sections.last_mut().unwrap().1.push_str(line),
        }
    }
    sections
}

/// What loading says: errors, else warnings, else that all is well.
fn said(texts: Texts) -> String {
    match load_from("tags", texts.into_iter().collect()) {
        Ok(loaded) if loaded.warnings.items.is_empty() => "all is well\n".to_owned(),
        Ok(loaded) => render(&loaded.warnings, &loaded.files, false),
        Err(LoadError::Wrong { files, diagnostics }) => render(&diagnostics, &files, false),
        Err(LoadError::Io { .. }) => unreachable!("nothing is read from files"),
    }
}

fn check(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).unwrap();
    let mut parts = sections(&text);
    let expected = match parts.last() {
        Some((name, _)) if name == EXPECTED => parts.pop().unwrap().1,
        _ => String::new(),
    };
    let mut texts = base();
    for (name, text) in &parts {
        match text.trim() {
            "(deleted)" => drop(texts.remove(name)),
            _ => drop(texts.insert(name.clone(), text.clone())),
        }
    }
    let said = said(texts);
    if said == expected {
        return Ok(());
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let files: String = parts.iter().map(|(n, t)| format!("=== {n}\n{t}")).collect();
        fs::write(path, format!("{files}=== {EXPECTED}\n{said}")).unwrap();
        return Ok(());
    }
    Err(format!("{}\nexpected:\n{expected}\nsaid:\n{said}", path.display()))
}

fn mistakes() -> Vec<PathBuf> {
    let files = fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|p| p.extension().is_some_and(|e| e == "txt")).collect();
    files.sort();
    files
}

#[test]
fn every_mistake_gives_its_message() {
    let wrong: Vec<String> = mistakes().iter().filter_map(|path| check(path).err()).collect();
    assert!(wrong.is_empty(), "{} mistakes\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn there_are_more_than_sixty_kinds_of_mistake_and_each_says_what_to_do() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return; // The files are being rewritten.
    }
    let mut kinds = 0;
    for path in mistakes() {
        let text = fs::read_to_string(&path).unwrap();
        let (_, message) = sections(&text).pop().unwrap();
        let remedies =
            message.lines().filter(|l| l.trim_start().starts_with("| ") && l.contains('^'));
        for line in remedies {
            let remedy = line.rsplit('^').next().unwrap().trim();
            assert!(!remedy.is_empty(), "{}: no remedy in\n{message}", path.display());
            kinds += 1;
        }
        assert!(message.contains("tags/"), "{}: no place in\n{message}", path.display());
    }
    assert!(kinds > 60, "{kinds}");
}

#[test]
fn the_base_of_the_mistakes_is_itself_right() {
    assert_eq!(said(base()), "all is well\n");
}

/// Cuts, doubles and swaps pieces of the base's files: whatever comes of it is said, not a panic.
#[test]
fn no_damage_to_a_file_makes_the_loader_panic() {
    const PIECES: [&str; 16] = [
        "'", "\"", "{", "}", "[", "\t", "\n", ": ", "- ", "é大", "#", "|", "\r\n", "---\n", "$",
        "(",
    ];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let base = base();
    let rounds = std::env::var("DAMAGE_ROUNDS").map_or(150, |n| n.parse().unwrap());
    for _ in 0..rounds {
        let mut texts = base.clone();
        for _ in 0..=random(3) {
            let at = random(texts.len());
            let text = texts.values_mut().nth(at).unwrap();
            let boundaries: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
            if boundaries.is_empty() {
                continue;
            }
            let from = boundaries[random(boundaries.len())];
            let to = boundaries[random(boundaries.len())];
            match random(4) {
                0 if from < to => text.replace_range(from..to, ""),
                1 if from < to => {
                    let again = text[from..to].to_owned();
                    text.insert_str(to, &again);
                }
                _ => text.insert_str(from, PIECES[random(PIECES.len())]),
            }
        }
        assert!(!said(texts).is_empty());
    }
}
