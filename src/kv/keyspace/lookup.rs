//! The store's keys as commands see them: a key whose time is over is not there, one that holds
//! another kind of value is refused, and every change keeps what the store counts.

use std::sync::Arc;

use bytes::Bytes;

use crate::kv::commands::outcome::Refusal;
use crate::kv::keyspace::entry::KeyEntry;
use crate::kv::keyspace::expiration::Millis;
use crate::kv::state_machine::StateMachine;
use crate::kv::values::object::{Content, ValueType};

impl StateMachine {
    /// The replicated clock: milliseconds since 1970.
    pub fn clock(&self) -> Millis {
        self.clock
    }

    /// What a key holds, if anything.
    pub(in crate::kv) fn kind(&self, key: &[u8]) -> Option<ValueType> {
        self.pair(key).map(KeyEntry::value_type)
    }

    /// The string that a key holds.
    ///
    /// # Errors
    /// If it holds something else.
    pub(in crate::kv) fn string(&self, key: &[u8]) -> Result<Option<&[u8]>, Refusal> {
        match self.pair(key) {
            Some(pair) if pair.value_type() != ValueType::String => Err(Refusal::WrongType),
            pair => Ok(pair.map(KeyEntry::value)),
        }
    }

    /// The same, to be kept.
    ///
    /// # Errors
    /// If it holds something else.
    pub(in crate::kv) fn shared_string(&self, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
        match self.pair(key) {
            Some(pair) if pair.value_type() != ValueType::String => Err(Refusal::WrongType),
            pair => Ok(pair.map(KeyEntry::shared_value)),
        }
    }

    /// A key's content of one kind.
    ///
    /// # Errors
    /// If it holds something else.
    pub(in crate::kv) fn content<C: Content>(&self, key: &[u8]) -> Result<Option<&C>, Refusal> {
        let Some(pair) = self.pair(key) else { return Ok(None) };
        let content = pair.object().and_then(C::of).ok_or(Refusal::WrongType)?;
        Ok(Some(content))
    }

    /// Changes a key's content, a new one if there is none. `change` also tells whether it has
    /// changed anything. If nothing is left in it the key goes.
    ///
    /// # Errors
    /// If the key holds something else.
    pub(in crate::kv) fn change<C: Content, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut C) -> (R, bool),
    ) -> Result<R, Refusal> {
        if self.content::<C>(key)?.is_none() {
            self.begin(key, C::wrap(Arc::new(C::default())));
        }
        Ok(self.change_pair(key, change))
    }

    /// The same, but only if there is one.
    ///
    /// # Errors
    /// If the key holds something else.
    pub(in crate::kv) fn change_there<C: Content, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut C) -> (R, bool),
    ) -> Result<Option<R>, Refusal> {
        if self.content::<C>(key)?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.change_pair(key, change)))
    }

    /// When a key ends, if it does.
    pub(in crate::kv) fn expires_at(&self, key: &[u8]) -> Option<Millis> {
        self.pair(key)?.expires_at()
    }

    /// Which entry changed a key last; 0 if there is no such key. What a key is watched by.
    pub(in crate::kv) fn revision(&self, key: &[u8]) -> u64 {
        self.pair(key).map_or(0, KeyEntry::revision)
    }
}
