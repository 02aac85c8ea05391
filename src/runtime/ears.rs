//! Whether anybody at this replica listens to messages, or to what befalls keys: said by the
//! network, asked by the applier, which else would collect for nobody.

use std::sync::atomic::{AtomicBool, Ordering};

/// Who listens. A change counts from the applier's next pass.
#[derive(Debug, Default)]
pub(super) struct Ears {
    messages: AtomicBool,
    keys: AtomicBool,
}

impl Ears {
    /// From now on.
    pub(super) fn set(&self, messages: bool, keys: bool) {
        self.messages.store(messages, Ordering::Relaxed);
        self.keys.store(keys, Ordering::Relaxed);
    }

    /// To messages, and to what befalls keys.
    pub(super) fn get(&self) -> (bool, bool) {
        (self.messages.load(Ordering::Relaxed), self.keys.load(Ordering::Relaxed))
    }
}
