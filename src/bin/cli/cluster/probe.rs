//! Asks a replica of this machine whether it leads, as any client would: `ROLE`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A replica of this machine that takes longer is as good as away.
const PATIENCE: Duration = Duration::from_millis(200);

/// Whether the replica at this port says that it leads.
pub(super) fn leads(port: u16) -> bool {
    role(port).is_ok_and(|reply| reply.starts_with(b"*3\r\n$6\r\nmaster\r\n"))
}

fn role(port: u16) -> std::io::Result<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"ROLE\r\n")?;
    let mut reply = vec![0; 64];
    let count = stream.read(&mut reply)?;
    reply.truncate(count);
    Ok(reply)
}
