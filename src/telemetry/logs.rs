//! Logs: one line an occurrence on standard error, for people or for machines.
//!
//! In: `log.format`, `log.level`. Out: lines. `TAGLOOM_LOG` wins over `log.level`.
//! Invariant: what is logged never holds a key, a password or a masked column's value.

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// A level that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{source_name} = {text}: {reason}; write a level (error, warn, info, debug, trace) or levels by \
     part, as in warn,tagloom=debug"
)]
pub struct LevelError {
    source_name: &'static str,
    text: String,
    reason: String,
}

/// Begins to log; the first call counts.
pub fn start(config: &LogConfig) -> Result<(), LevelError> {
    let (source_name, text) = match std::env::var("TAGLOOM_LOG") {
        Ok(text) if !text.is_empty() => ("TAGLOOM_LOG", text),
        _ => ("log.level", config.level.clone()),
    };
    let filter = filter(source_name, &text)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Pretty => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    // Somebody logs already: a test, or a program that tagloom is a part of.
    drop(started);
    Ok(())
}

/// A plain level is tagloom's own; libraries are then heard from `warn` on.
fn filter(source_name: &'static str, text: &str) -> Result<EnvFilter, LevelError> {
    let is_plain = text.parse::<tracing::level_filters::LevelFilter>().is_ok();
    let directives = if is_plain { format!("warn,tagloom={text}") } else { text.to_owned() };
    EnvFilter::try_new(directives).map_err(|error| LevelError {
        source_name,
        text: text.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_plain_or_by_part_and_anything_else_is_explained() {
        let shown = |text| filter("log.level", text).map(|f| f.to_string());
        assert_eq!(shown("debug").expect("a level"), "tagloom=debug,warn");
        assert!(shown("warn,tagloom::engine=trace").is_ok());
        let error = shown("tagloom=loud").expect_err("no level").to_string();
        assert!(error.contains("log.level = tagloom=loud") && error.contains("debug"), "{error}");
    }
}
