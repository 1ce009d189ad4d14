//! Unix sockets in folders of any depth: a socket's path may have at most 107 bytes, so it is named through a
//! descriptor of its folder instead.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Uid, geteuid};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

/// After an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// A short path to the file `name` in `folder`, good for as long as the folder's descriptor is open.
fn short(folder: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    let folder = File::open(folder)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()));
    Ok((folder, path))
}

/// Connects to the socket `name` in `folder`.
pub(super) async fn connect(folder: &Path, name: &str) -> io::Result<UnixStream> {
    let (_folder, path) = short(folder, name)?;
    UnixStream::connect(path).await
}

/// Listens on the socket `name` in `folder`, in the place of an older one. Its owner alone may connect.
pub(super) fn listen(folder: &Path, name: &str) -> io::Result<UnixListener> {
    let listener = bind(folder, name)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// The same for who has no runtime.
pub(super) fn bind(folder: &Path, name: &str) -> io::Result<std::os::unix::net::UnixListener> {
    match fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, path) = short(folder, name)?;
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Refuses a peer that is neither this process's user nor root: whatever the modes of folders are, a process of somebody
/// else neither commands VMs nor is told secrets.
pub(super) fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if is_trusted(Uid::from_raw(peer), geteuid()) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("the other end is a process of the user {peer}"),
    ))
}

fn is_trusted(peer: Uid, this: Uid) -> bool {
    peer == this || peer.is_root()
}

/// A listener that lets in processes of this user and of root alone.
#[derive(Debug)]
pub(super) struct Trusted(pub(super) UnixListener);

impl axum::serve::Listener for Trusted {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) if check_peer(&stream).is_ok() => return (stream, address),
                Ok(_) => {}
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn other_users_but_root_are_refused() {
        let [root, one, two] = [0, 1000, 1001].map(Uid::from_raw);
        assert!(is_trusted(one, one) && is_trusted(root, one) && is_trusted(root, root));
        assert!(!is_trusted(two, one) && !is_trusted(one, root));
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_alone() {
        let root = tempfile::tempdir().unwrap();
        let listener = listen(root.path(), "s").unwrap();
        let mode = fs::metadata(root.path().join("s")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (client, server) = tokio::join!(connect(root.path(), "s"), listener.accept());
        assert!(check_peer(&client.unwrap()).is_ok() && check_peer(&server.unwrap().0).is_ok());
    }

    #[tokio::test]
    async fn a_deep_folder_may_hold_a_socket() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        for _ in 0..2 {
            let listener = listen(&deep, "s").unwrap();
            let (mut client, server) = tokio::join!(connect(&deep, "s"), listener.accept());
            client.as_mut().unwrap().write_all(b"hi").await.unwrap();
            let mut buffer = [0; 2];
            server.unwrap().0.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"hi");
        }
    }

    #[tokio::test]
    #[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
    async fn a_process_of_another_user_gets_no_answer() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root becomes another user");
            return;
        }
        // Whatever the modes of folder and socket are.
        let root = tempfile::tempdir_in("/tmp").unwrap();
        let mut listener = Trusted(listen(root.path(), "s").unwrap());
        let path = root.path().join("s");
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (mut client, _) = axum::serve::Listener::accept(&mut listener).await;
                client.write_all(b"hello").await.unwrap();
            }
        });
        let ask = |user: Uid| {
            let path = path.clone();
            // A thread of its own: the change is that thread's alone.
            let client = std::thread::spawn(move || -> io::Result<String> {
                rustix::thread::set_thread_uid(user)?;
                let mut answer = String::new();
                // One that is refused has its connection closed or reset.
                let _ = std::os::unix::net::UnixStream::connect(path)?.read_to_string(&mut answer);
                Ok(answer)
            });
            tokio::task::spawn_blocking(move || client.join().unwrap().unwrap())
        };
        assert_eq!(ask(Uid::from_raw(65534)).await.unwrap(), "");
        assert_eq!(ask(Uid::ROOT).await.unwrap(), "hello");
        server.abort();
    }
}
