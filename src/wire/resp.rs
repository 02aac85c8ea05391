//! The Redis protocol, RESP2 and RESP3: requests from bytes that arrive in pieces, and replies to
//! bytes. This module uses no sockets and knows no commands; `redis/` runs the requests.
//!
//! A connection has one [`Parser`] and one buffer of bytes that have been received but not consumed
//! yet:
//!
//! ```
//! use bowline::wire::resp::{Limits, Parser};
//!
//! let mut parser = Parser::new(Limits::default());
//! let mut buffer = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\r\nPI".to_vec();
//! let mut used = 0;
//! while let Some(request) = parser.next(&buffer, &mut used).expect("well formed") {
//!     assert_eq!(request.iter().collect::<Vec<_>>(), [&b"GET"[..], b"k"]);
//! }
//! buffer.drain(..used);
//! assert_eq!(buffer, b"PI"); // The parser remembers how far it has scanned.
//! ```

mod inline;
mod parser;
mod writer;

pub use inline::split_arguments;
pub use parser::{Limits, Parser, ProtocolError, Request};
pub use writer::{Version, Writer};
