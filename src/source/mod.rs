//! Where rows come from: files of JSON lines, CSV and Parquet, standard input, Kafka topics.
//!
//! In: paths or topics. Out: decoded batches with the position behind each.
//! Invariant: rows of one source come in offset order; a position is only ever moved by a window
//! that was stored.

pub mod cut;
pub mod file;
pub mod input;
pub mod kafka;
pub mod parquet;
pub mod position;
pub mod recipe;
