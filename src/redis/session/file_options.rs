//! What a client has said about the file of all keys that it is going to ask for.

/// What a client has said with `REPLCONF` before `SYNC`.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::redis) struct FileOptions {
    /// `capa eof`: the client finds the end of a file without knowing its length.
    pub(in crate::redis) accepts_mark: bool,
    /// `rdb-only 1`: the client wants no writes after the keys.
    pub(in crate::redis) keys_only: bool,
}
