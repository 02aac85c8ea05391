//! Encodes operations in the Redis protocol. The constant parts of requests are encoded once,
//! before the run.

use super::generator::{Operation, Request};
use super::keys::{Values, write_key};
use super::resp::write_request;

/// Timeout in milliseconds that Redis's commands WAIT and WAITAOF are sent with.
const WAIT_MS: &[u8] = b"1000";

/// Encodes Redis requests with keys and values of fixed lengths.
#[derive(Debug)]
pub(crate) struct RequestEncoder {
    /// Length of a key in bytes.
    pub(crate) key_bytes: usize,
    get: Vec<u8>,
    set: Vec<u8>,
    /// Precomputed bytes between the key and the value of an encoded SET command: a line break, and
    /// the length of the value.
    middle: Vec<u8>,
    /// Precomputed bytes after the value of an encoded SET command: a line break and, if each write
    /// is followed by a WAIT, the WAIT command.
    end: Vec<u8>,
    wait_aof: Vec<u8>,
}

impl RequestEncoder {
    /// Creates an encoder for keys of `key_bytes` bytes and values of `value_bytes` bytes. If
    /// `wait` is not `None`, each write is followed by a WAIT for that number of replicas.
    /// `wait_aof` is the number of replicas that encoded WAITAOF requests wait for.
    pub(crate) fn new(
        key_bytes: usize,
        value_bytes: usize,
        wait: Option<u32>,
        wait_aof: Option<u32>,
    ) -> RequestEncoder {
        let mut synced = Vec::new();
        let replicas = wait_aof.unwrap_or(0).to_string();
        write_request(&mut synced, &[b"WAITAOF", b"1", replicas.as_bytes(), WAIT_MS]);
        let mut end = b"\r\n".to_vec();
        if let Some(replicas) = wait {
            let replicas = replicas.to_string();
            write_request(&mut end, &[b"WAIT", replicas.as_bytes(), WAIT_MS]);
        }
        RequestEncoder {
            key_bytes,
            get: format!("*2\r\n$3\r\nGET\r\n${key_bytes}\r\n").into_bytes(),
            set: format!("*3\r\n$3\r\nSET\r\n${key_bytes}\r\n").into_bytes(),
            middle: format!("\r\n${value_bytes}\r\n").into_bytes(),
            end,
            wait_aof: synced,
        }
    }

    /// Appends the next request of `operation` to `out`, encoded as a Redis command.
    pub(crate) fn write(&self, out: &mut Vec<u8>, operation: &Operation, values: &Values) {
        match operation.request {
            Request::Get => {
                out.extend_from_slice(&self.get);
                write_key(out, operation.key, self.key_bytes);
                out.extend_from_slice(b"\r\n");
            }
            Request::Put => {
                out.extend_from_slice(&self.set);
                write_key(out, operation.key, self.key_bytes);
                out.extend_from_slice(&self.middle);
                values.write(out, operation.mark);
                out.extend_from_slice(&self.end);
            }
            Request::WaitAof => out.extend_from_slice(&self.wait_aof),
            Request::Scan => {
                // Any number is a valid cursor, because a cursor is a position in the hash table.
                let cursor = operation.key.to_string();
                let count = operation.mark.to_string();
                write_request(out, &[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()]);
            }
        }
    }
}
