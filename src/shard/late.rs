//! Profiles that are packed late: when their users leave memory, or when all is over.
//!
//! In: users whose profiles windows have changed. Out: their records, in the store.
//! Invariant: whoever is not in memory is in the store as it left. This is for a store that ends with
//! the process and that nobody reads meanwhile: there a user in memory is its own profile, and packing
//! it window by window would only keep it twice.

use super::results::{head, profile};
use super::users::Slot;
use super::{Shard, Shared};
use crate::store::{Bytes, UidKey, WindowWrite};
use crate::user::snapshot::{Applied, Packer};
use crate::write::profile::ProfileError;

/// Records on their way to the store.
#[derive(Default)]
pub(super) struct Late {
    packer: Packer,
    records: Vec<(UidKey, Bytes)>,
    /// Bytes of what was packed since the last window.
    bytes: u64,
}

impl Late {
    /// Bytes of what was packed since this was asked last.
    pub(super) fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Shard {
    /// Packs users whose records are not those of their last windows.
    pub(super) fn pack(&mut self, slots: &[Slot]) {
        let Shared { ruleset, texts, store, .. } = &self.shared;
        let (schema_id, texts) = (ruleset.schema_in(store.as_ref()).0, texts.view());
        for slot in slots {
            if !std::mem::take(&mut self.users.get_mut(*slot).unpacked) {
                continue;
            }
            let user = self.users.get(*slot);
            // A store with fences is read by others.
            let applied = Applied { partition: user.partition(), ..Applied::default() };
            let head = head(user, user.as_of_ms, schema_id);
            let profile = profile(&self.users, *slot, head, &applied, &[]);
            let record = self.late.packer.pack(&profile, &ruleset.layout, &texts);
            self.late.bytes += record.len() as u64;
            self.late.records.push((user.uid.to_key(), record.into()));
        }
    }

    /// Stores what was packed.
    pub(super) fn put_away(&mut self) -> Result<(), ProfileError> {
        if self.late.records.is_empty() {
            return Ok(());
        }
        let profiles = std::mem::take(&mut self.late.records);
        Ok(self.shared.store.write_window(WindowWrite { profiles, ..WindowWrite::default() })?)
    }

    /// Packs and stores everybody: somebody is going to read the store. Gives the bytes.
    pub fn pack_everybody(&mut self) -> Result<u64, ProfileError> {
        self.pack(&self.users.slots());
        self.put_away()?;
        Ok(self.late.take_bytes())
    }
}
