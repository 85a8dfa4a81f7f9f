//! Tables for people; plain when piped.

use std::io::IsTerminal;

use comfy_table::{ContentArrangement, Table};

/// A table with this header: ruled on a terminal, bare columns in a pipe.
pub(super) fn new<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    if std::io::stdout().is_terminal() {
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.load_style(comfy_table::presets::NOTHING);
    }
    table.set_header(header);
    table
}
