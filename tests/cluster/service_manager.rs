//! Notifications to the service manager that started a replica: when the replica is ready, and when
//! it begins to stop.

use std::os::unix::net::UnixDatagram;

use crate::replicas::{Cluster, TIMEOUT};

#[test]
fn service_manager_is_notified_of_readiness_and_stop() {
    let mut cluster = Cluster::start(1, "auto");
    cluster.wait_until_all_serve();
    cluster.kill(0);

    let socket = cluster.folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut message = [0; 64];
    let mut receive = || {
        let length = manager.recv(&mut message).expect("a message in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let mut command = cluster.command(0);
    command.env("NOTIFY_SOCKET", &socket);
    cluster.start_as(0, command);
    assert_eq!(receive().trim_end(), "READY=1");
    cluster.wait_until_all_serve();
    cluster.terminate(0);
    assert_eq!(receive().trim_end(), "STOPPING=1");
    assert!(cluster.end_of(0).success());
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 64]).is_err(), "each message is sent once");
}
