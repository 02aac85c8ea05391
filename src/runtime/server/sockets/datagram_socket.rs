//! The UDP socket on which a replica exchanges datagrams with its peers. On systems that support it
//! (GSO and GRO of Linux), one system call handles many datagrams.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};

use crate::transport::Outbox;

/// Size, in bytes, that is requested for the kernel's send and receive buffers. The kernel may
/// grant less.
const SYSTEM_BUFFER_BYTES: usize = 4 << 20;
/// Minimum number of bytes that each datagram counts towards the limit of a pass (iteration of the
/// stage's loop), because handling a small datagram costs nearly as much as handling a large one.
const DATAGRAM_COST: usize = 512;
/// Number of receive buffers that one system call can fill.
const BUFFERS: usize = 8;
/// Size of each receive buffer in bytes. On Linux, the kernel may join several datagrams in one
/// buffer (generic receive offload).
const BUFFER_BYTES: usize = 64 << 10;

/// A non-blocking UDP socket.
#[derive(Debug)]
pub(crate) struct DatagramSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    /// Whether datagrams may be waiting in the kernel. Set by `Poll` events; cleared when a read
    /// finds no more datagrams.
    readable: bool,
    space: Vec<u8>,
    /// Size of the kernel's receive buffer, in bytes; `send_buffer_bytes` is that of its send
    /// buffer.
    receive_buffer_bytes: usize,
    send_buffer_bytes: usize,
}

impl DatagramSocket {
    /// Creates a UDP socket bound to `address`.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<DatagramSocket> {
        let socket = UdpSocket::bind(address)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // If this fails, the system's default sizes are large enough.
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SYSTEM_BUFFER_BYTES);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), SYSTEM_BUFFER_BYTES);
        let receive_buffer_bytes = state.recv_buffer_size(UdpSockRef::from(&socket))?;
        let send_buffer_bytes = state.send_buffer_size(UdpSockRef::from(&socket))?;
        let space = vec![0; BUFFERS * BUFFER_BYTES];
        Ok(DatagramSocket {
            socket,
            state,
            readable: true,
            space,
            receive_buffer_bytes,
            send_buffer_bytes,
        })
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE)
    }

    /// Returns the size of the kernel's receive buffer, in bytes.
    pub(crate) fn receive_buffer_bytes(&self) -> usize {
        self.receive_buffer_bytes
    }

    /// Returns the size of the kernel's send buffer, in bytes.
    pub(crate) fn send_buffer_bytes(&self) -> usize {
        self.send_buffer_bytes
    }

    /// Records a `Poll` event of this socket, which means that datagrams may be waiting.
    pub(crate) fn on_event(&mut self) {
        self.readable = true;
    }

    /// Returns whether received datagrams may be waiting to be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Reads datagrams until none are left or at least `bytes_max` bytes have been read. Calls
    /// `on_datagram` for each datagram with the sender's address and the contents.
    pub(crate) fn receive(
        &mut self,
        bytes_max: usize,
        mut on_datagram: impl FnMut(SocketAddr, &[u8]),
    ) {
        let mut bytes = 0;
        while self.readable && bytes < bytes_max {
            let mut chunks = self.space.chunks_mut(BUFFER_BYTES);
            let mut buffers: [IoSliceMut<'_>; BUFFERS] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().expect("one per buffer")));
            let mut metas = [RecvMeta::default(); BUFFERS];
            let socket = UdpSockRef::from(&self.socket);
            match self.state.recv(socket, &mut buffers, &mut metas) {
                Ok(count) => {
                    // If fewer buffers were filled, no more datagrams are waiting, and later ones
                    // cause an event. Systems other than Linux fill only one buffer per call.
                    self.readable = count == BUFFERS || !cfg!(target_os = "linux");
                    for (meta, buffer) in metas[..count].iter().zip(&buffers) {
                        bytes += DATAGRAM_COST;
                        for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                            bytes += datagram.len().max(DATAGRAM_COST);
                            on_datagram(meta.addr, datagram);
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                // The error concerns a datagram sent earlier, or the call was interrupted. If
                // errors persist, the streams fail and report it.
                Err(_) => bytes += BUFFER_BYTES,
            }
        }
    }

    /// Sends the datagrams in `out` to the address `to`. Datagrams that the kernel does not accept
    /// are lost, just like datagrams that are lost on the network.
    pub(crate) fn send(&self, to: SocketAddr, out: &Outbox) {
        for (contents, length) in out.runs(self.state.max_gso_segments()) {
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents,
                segment_size: Some(length),
                src_ip: None,
            };
            let _ = self.state.try_send(UdpSockRef::from(&self.socket), &transmit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::datagram::{self, Data, Datagram, StreamId};
    use std::time::{Duration, Instant};

    #[test]
    fn datagrams_sent_in_one_batch_arrive_individually() {
        const COUNT: u64 = 190;
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (from, mut to) =
            (DatagramSocket::bind(any).unwrap(), DatagramSocket::bind(any).unwrap());
        assert!(to.receive_buffer_bytes() > 0);
        let id = StreamId { stream: 1, cookie: 2 };
        let payload = [7; 1_000];
        let mut out = Outbox::default();
        // The counts include more datagrams than one system call can send.
        for number in 0..COUNT {
            let payload = &payload[..if number % 5 == 4 && number < 100 { 10 } else { 1_000 }];
            out.push(&Datagram::Data(id, Data { number, offset: 0, payload }));
        }
        from.send(to.socket.local_addr().unwrap(), &out);
        let mut arrived = Vec::new();
        let until = Instant::now() + Duration::from_mins(1);
        while arrived.len() as u64 != COUNT {
            assert!(Instant::now() < until, "only {} datagrams arrived", arrived.len());
            to.on_event();
            to.receive(usize::MAX, |address, bytes| {
                assert_eq!(address, from.socket.local_addr().unwrap());
                match datagram::decode(bytes) {
                    Ok(Datagram::Data(_, data)) => arrived.push(data.number),
                    other => panic!("{other:?}"),
                }
            });
        }
        assert_eq!(arrived, (0..COUNT).collect::<Vec<_>>());
    }
}
