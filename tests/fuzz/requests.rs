//! Fuzzes requests of Redis clients: any bytes must get the same replies whether they arrive in one
//! piece or in several. The limits are so small that a fuzzer reaches them.

use bowline::wire::resp::Limits;

use super::local_server::LocalServer;

/// The entry point of the fuzzer.
pub(crate) fn resp(bytes: &[u8]) {
    let limits = Limits { bulk_bytes_max: 100, items_max: 20, request_bytes_max: 500 };
    let whole = answered(bytes, bytes.len().max(1), limits);
    for piece in [1, 2, 3, 7, 64] {
        assert_eq!(answered(bytes, piece, limits), whole, "in pieces of {piece}");
    }
    answered(bytes, bytes.len().max(1), Limits::default());
}

/// Returns the replies to bytes that arrive in pieces of `piece` bytes, and whether the server has
/// closed the connection.
fn answered(bytes: &[u8], piece: usize, limits: Limits) -> (Vec<u8>, bool) {
    let mut server = LocalServer::new(limits);
    for piece in bytes.chunks(piece) {
        server.receive(piece);
    }
    (server.replies(), server.closed())
}
