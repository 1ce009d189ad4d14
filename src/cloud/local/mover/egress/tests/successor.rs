//! A process that ends takes no connection along that a machine was told of.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::super::{Budget, Egress, Ranges};
use super::bed::{Bed, Copier, SERVERS, ranges, wanted};

#[test]
fn a_connection_that_was_offered_is_made_by_a_successor() {
    if !wanted() {
        return;
    }
    let mut bed = Bed::without_egress();
    for server in SERVERS {
        let at = listening(&bed, server);
        // The machine is connected by the kernel, and the process ends before it has accepted that.
        bed.start(false);
        let mut client = connect(&bed, at).unwrap();
        client.write_all(b"ask!").unwrap();
        bed.until(|report| report.connecting == 1);
        bed.stop();
        bed.start(true);
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ask!");
        bed.stop();
    }
    // It had accepted it, but its record was not written yet: who finds the socket gives it to the successor.
    bed.start(false);
    let mut client = connect(&bed, listening(&bed, SERVERS[0])).unwrap();
    client.write_all(b"ask!").unwrap();
    bed.stop();
    let (sockets, listener) = (bed.sockets(), bed.sockets().listener);
    bed.host.run(move || {
        let accepted = rustix::net::accept(listener).unwrap();
        let mut egress = Egress::new(sockets, ranges(), Budget::new(64, 16_384));
        let mut carrier = Copier::new();
        egress.accepted(accepted, &mut carrier, Instant::now());
        while egress.report().connecting > 0 {
            for fd in carrier.wait(Duration::from_secs(1)) {
                egress.ready(fd, &mut carrier, Instant::now());
            }
        }
    });
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ask!");
    // One of an address that is no machine's (any more) is reset.
    let mut client = connect_offered(&mut bed);
    bed.stop();
    let (sockets, listener) = (bed.sockets(), bed.sockets().listener);
    bed.host.run(move || {
        let nobody = Ranges { machines: Vec::new(), ..ranges() };
        let mut egress = Egress::new(sockets, nobody, Budget::new(64, 16_384));
        egress.ready(listener.as_raw_fd(), &mut Copier::new(), Instant::now());
        assert_eq!(egress.report().counters.forbidden, 1);
    });
    assert_eq!(client.read(&mut [0; 4]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    // Where the other end is gone in between, the machine's connection is reset.
    let at = bed
        .host
        .run(|| TcpListener::bind((SERVERS[0], 0)).map(|listener| (listener.local_addr().unwrap(), listener)))
        .unwrap();
    bed.start(false);
    let mut client = connect(&bed, at.0).unwrap();
    bed.stop();
    drop(at.1);
    bed.start(true);
    assert_eq!(client.read(&mut [0; 4]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// A server of the host that answers four bytes.
fn listening(bed: &Bed, address: &'static str) -> SocketAddr {
    bed.host.run(move || {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let mut asked = [0; 4];
                if client.read_exact(&mut asked).is_ok() {
                    client.write_all(&asked).unwrap();
                }
            }
        });
        at
    })
}

/// A connection that nobody has accepted yet.
fn connect_offered(bed: &mut Bed) -> TcpStream {
    bed.start(false);
    let at = listening(bed, SERVERS[0]);
    connect(bed, at).unwrap()
}

fn connect(bed: &Bed, to: SocketAddr) -> std::io::Result<TcpStream> {
    bed.guest.run(move || {
        let client = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(client)
    })
}
