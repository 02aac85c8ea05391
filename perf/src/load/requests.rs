//! Operations as bytes on the wire. The parts that never change are put together before the run.

use super::keys::{Values, write_key};
use super::resp::write_request;
use super::work::{Operation, Step};

/// How long Redis waits for its replicas, in milliseconds.
const WAIT_MS: &[u8] = b"1000";

/// Writes requests of the Redis protocol.
#[derive(Debug)]
pub(crate) struct Requests {
    /// How long keys are.
    pub(crate) key_bytes: usize,
    get: Vec<u8>,
    set: Vec<u8>,
    /// Between key and value.
    middle: Vec<u8>,
    /// Behind a value: its end, and what waits for replicas.
    end: Vec<u8>,
}

impl Requests {
    /// For keys and values of these lengths. Each write waits for so many replicas of Redis's.
    pub(crate) fn new(key_bytes: usize, value_bytes: usize, wait: Option<u32>) -> Requests {
        let mut end = b"\r\n".to_vec();
        if let Some(replicas) = wait {
            let replicas = replicas.to_string();
            write_request(&mut end, &[b"WAIT", replicas.as_bytes(), WAIT_MS]);
        }
        Requests {
            key_bytes,
            get: format!("*2\r\n$3\r\nGET\r\n${key_bytes}\r\n").into_bytes(),
            set: format!("*3\r\n$3\r\nSET\r\n${key_bytes}\r\n").into_bytes(),
            middle: format!("\r\n${value_bytes}\r\n").into_bytes(),
            end,
        }
    }

    /// Writes what the operation asks now.
    pub(crate) fn write(&self, out: &mut Vec<u8>, operation: &Operation, values: &Values) {
        match operation.step {
            Step::Get => {
                out.extend_from_slice(&self.get);
                write_key(out, operation.key, self.key_bytes);
                out.extend_from_slice(b"\r\n");
            }
            Step::Put => {
                out.extend_from_slice(&self.set);
                write_key(out, operation.key, self.key_bytes);
                out.extend_from_slice(&self.middle);
                values.write(out, operation.mark);
                out.extend_from_slice(&self.end);
            }
            Step::Scan => {
                // Any number is a cursor: it says where in the table to begin.
                let cursor = operation.key.to_string();
                let count = operation.mark.to_string();
                write_request(out, &[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()]);
            }
        }
    }
}
