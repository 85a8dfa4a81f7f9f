//! Progress bars, on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over bytes with rate and time left. Hidden when standard error is no terminal.
pub(super) fn bytes_bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = "{prefix:>20} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_prefix(name.to_owned());
    bar
}

/// A bar over users with rate and time left.
pub(super) fn users_bar(name: &str, users: u64) -> ProgressBar {
    let bar = ProgressBar::new(users);
    let style = "{prefix:>20} {bar:30} {pos}/{len} users {per_sec} {eta} {msg}";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_prefix(name.to_owned());
    bar
}

/// A bar over rows of a store with rate and time left.
pub(super) fn rows_bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = "{prefix:>20} {bar:30} {pos}/{len} rows {per_sec} {eta}";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_prefix(name.to_owned());
    bar
}

/// A bar over the slices of users that are folded one after the other.
pub(super) fn slices_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = "{prefix:>20} {bar:30} slice {pos} of {len} {eta}";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_prefix("by slices of users");
    bar
}
