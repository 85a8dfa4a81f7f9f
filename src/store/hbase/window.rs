//! One window as writes of rows.
//!
//! In: a window. Out: acknowledged rows, in the order that [`crate::store::Store::is_atomic`] names.
//! Invariant: all cells of a window have one timestamp; what comes later is not sent before what
//! comes earlier is acknowledged.

use std::collections::{HashMap, HashSet};

use hbase_thrift::hbase::BatchMutation;

use super::gateway::{RefusedRow, delete, put};
use super::state::State;
use super::{DUE_CELL, HbaseStore, META_CELL, REJECT_CELL, STATE_CELL, keys};
use crate::store::argument::check_meta_key;
use crate::store::{
    Bytes, DueCursor, DuePack, ProfileCells, Result, StoreError, Uid, UidKey, WindowWrite,
};
use crate::user::layout::hash64;

/// HBase's default for one cell (hbase.client.keyvalue.maxsize), less what key and column take.
const VALUE_BYTES_MAX: usize = (10 << 20) - (8 << 10);

/// Users named in a message.
const USERS_NAMED_MAX: usize = 5;

pub(super) fn write(store: &HbaseStore, window: WindowWrite) -> Result<()> {
    window.meta.iter().try_for_each(|(key, value)| {
        check_meta_key(key)?;
        check_bytes("the small value", value.len())
    })?;
    let stamp = Some(store.stamp()?);
    let WindowWrite {
        profiles,
        cells,
        removed,
        due,
        due_done,
        meta,
        rejects,
        reject_ids,
        rejects_done,
    } = window;
    let gateway = &store.gateway;
    let renewed: HashSet<DueCursor> = due.iter().map(|pack| pack.cursor).collect();
    let due = due.into_iter().map(due_put);
    none_refused("a due entry", gateway.write(&store.tables.due, due, stamp)?)?;

    let refused = write_profiles(store, profiles, cells, stamp)?;
    let gone = removed.iter().map(|key| delete(store.row(key), &["s", "t"]));
    none_refused("a deletion", gateway.write(&store.tables.profile, gone, stamp)?)?;
    refused_users(store, refused)?;

    let ids = reject_ids.into_iter().map(Some).chain(std::iter::repeat(None));
    let rejects = rejects.into_iter().zip(ids).map(|(reject, id)| {
        let row = reject_row(id.unwrap_or_else(|| hash64(&reject)));
        put(row, [(REJECT_CELL.as_bytes().to_vec(), reject)])
    });
    // By the server's clock: the family has a time to live.
    none_refused("a reject", gateway.write(&store.tables.reject, rejects, None)?)?;
    let done = rejects_done.into_iter().map(|id| delete(reject_row(id), &["r"]));
    none_refused("a deletion", gateway.write(&store.tables.reject, done, None)?)?;

    let drained = due_done.into_iter().filter(|cursor| !renewed.contains(cursor));
    let drained = drained.map(|cursor| delete(keys::due_row(cursor), &["d"]));
    none_refused("a deletion", gateway.write(&store.tables.due, drained, stamp)?)?;

    let meta = meta
        .into_iter()
        .map(|(key, value)| put(key.into_bytes(), [(META_CELL.as_bytes().to_vec(), value)]));
    none_refused("a small value", gateway.write(&store.tables.meta, meta, stamp)?)
}

fn due_put(mut pack: DuePack) -> BatchMutation {
    let value = pack.encode();
    put(keys::due_row(pack.cursor), [(DUE_CELL.as_bytes().to_vec(), value)])
}

/// Users that HBase does not take, and why.
type RefusedUsers = Vec<(UidKey, String)>;

fn write_profiles(
    store: &HbaseStore,
    profiles: Vec<(UidKey, Bytes)>,
    cells: Vec<ProfileCells>,
    stamp: Option<i64>,
) -> Result<RefusedUsers> {
    let wants_cells = store.gateway.options.tag_cells;
    let mut refused = RefusedUsers::new();
    // All batches have one timestamp and are under way at once: of several writes of a row nobody
    // could tell which one stays.
    let last: HashMap<UidKey, usize> =
        profiles.iter().enumerate().map(|(at, (key, _))| (key.clone(), at)).collect();
    let cells = cells.into_iter().map(Some).chain(std::iter::repeat(None));
    let rows = profiles.into_iter().zip(cells).enumerate();
    let rows = rows.filter(|(at, ((key, _), _))| last.get(key) == Some(at));
    let rows = rows.filter_map(|(_, ((key, profile), cells))| {
        if profile.len() > VALUE_BYTES_MAX {
            let bytes = profile.len();
            refused.push((key, format!("a profile of {bytes} bytes, at most {VALUE_BYTES_MAX}")));
            return None;
        }
        let cells = cells.filter(|_| wants_cells);
        Some(profile_row(store.row(&key), &profile, cells))
    });
    let rows = store.gateway.write(&store.tables.profile, rows, stamp)?;
    for (row, reason) in rows {
        refused.push((store.uid(&row)?, reason));
    }
    Ok(refused)
}

/// State and tag cells of a user: one mutation, which HBase applies whole or not at all.
fn profile_row(row: Vec<u8>, profile: &[u8], cells: Option<ProfileCells>) -> BatchMutation {
    // Marked even when the family is switched off: the cells that are there get stale.
    let state = State { cells_left_out: cells.is_none(), profile }.encode();
    let tags = cells.into_iter().flat_map(|cells| cells.tags);
    let tags = tags.map(|(tag, value)| {
        let value = value.map_or(Vec::new(), |value| value.as_bytes().to_vec());
        (format!("t:{tag}").into_bytes(), value)
    });
    put(row, std::iter::once((STATE_CELL.as_bytes().to_vec(), state)).chain(tags))
}

fn refused_users(store: &HbaseStore, refused: RefusedUsers) -> Result<()> {
    let Some((_, reason)) = refused.first() else { return Ok(()) };
    let reason = reason.clone();
    let name = |key: &UidKey| {
        Uid::from_key(store.identity.uid, key)
            .map_or_else(|_| format!("{key:?}"), |u| u.to_string())
    };
    let named: Vec<String> =
        refused.iter().take(USERS_NAMED_MAX).map(|(key, _)| name(key)).collect();
    let more = refused.len().saturating_sub(USERS_NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(StoreError::Refused {
        what: format!("the profile of user {}{more}", named.join(", ")),
        reason,
        keys: refused.into_iter().map(|(key, _)| key).collect(),
    })
}

/// Rows that belong to nobody must all be taken.
pub(super) fn none_refused(what: &str, refused: Vec<RefusedRow>) -> Result<()> {
    match refused.into_iter().next() {
        None => Ok(()),
        Some((row, reason)) => Err(StoreError::Refused {
            what: format!("{what} (row `{}`)", String::from_utf8_lossy(&row).escape_debug()),
            reason,
            keys: Vec::new(),
        }),
    }
}

pub(super) fn check_bytes(what: &str, bytes: usize) -> Result<()> {
    if bytes > VALUE_BYTES_MAX {
        let what = what.to_owned();
        return Err(StoreError::TooLarge { what, bytes, bytes_max: VALUE_BYTES_MAX });
    }
    Ok(())
}

/// A reject's row: its id as 16 hex digits.
pub(super) fn reject_row(id: u64) -> Vec<u8> {
    format!("{id:016x}").into_bytes()
}

pub(super) fn reject_id(row: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(row).ok();
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or_else(|| StoreError::Corrupt {
        what: format!("the reject `{}`", String::from_utf8_lossy(row).escape_debug()),
        remedy: "delete that row in the HBase shell".to_owned(),
    })
}
